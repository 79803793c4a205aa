"""`list`: the models a running server has."""

from __future__ import annotations

import typer

from server.cli.common import DataDir, Port, connect, print_table
from server.units import size

app = typer.Typer()


@app.command("list")
def list_models(port: Port = None, data_dir: DataDir = None) -> None:
    """The models there are."""
    with connect(port, data_dir) as client:
        models = client.models()
    print_table(
        ["model", "type", "state", "size", "dtype"],
        [[m.name, m.type, m.state, size(m.n_bytes), m.dtype or ""] for m in models],
    )
