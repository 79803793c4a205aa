"""`ps` and `list`: what a running server holds and does."""

from __future__ import annotations

import typer

from server.cli.common import DataDir, Port, connect, print_table
from server.sizes import size

app = typer.Typer()


@app.command()
def ps(port: Port = None, data_dir: DataDir = None) -> None:
    """What is in memory, and what runs and waits."""
    with connect(port, data_dir) as client:
        devices = client.gpu()
        live = [job for status in ("processing", "queued") for job in client.jobs(status).jobs]
    held = [[d.name, h.name, h.kind, size(h.n_bytes)] for d in devices for h in d.holders]
    if held:
        print_table(["device", "holder", "kind", "size"], held)
    else:
        typer.echo("No model is in memory.")
    for d in devices:
        typer.echo(f"{d.name}: {size(d.used)} of {size(d.total)} used, {size(d.free)} free")
    if live:
        rows = [[job.job_id, job.type, job.model, job.status, f"{job.progress:.0%}"] for job in live]
        print_table(["job", "type", "model", "status", "progress"], rows)


@app.command("list")
def list_models(port: Port = None, data_dir: DataDir = None) -> None:
    """The models there are."""
    with connect(port, data_dir) as client:
        models = client.models()
    print_table(
        ["model", "type", "state", "size", "dtype"],
        [[m.name, m.type, m.state, size(m.n_bytes), m.dtype or ""] for m in models],
    )
