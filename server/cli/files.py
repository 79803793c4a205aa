"""`files`: sends, lists and deletes the pictures and clips that jobs start from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from server.cli.connection import DataDir, Port, connect
from server.cli.exit_codes import Exit
from server.cli.output import fail, print_table
from server.units import size

app = typer.Typer(no_args_is_help=True, help="Pictures and clips for jobs: upload, list, delete.")

AsJson = Annotated[bool, typer.Option("--json", help="Print the server's reply, for scripts.")]


@app.command("upload")
def files_upload(
    file: Annotated[Path, typer.Argument(help="A PNG, JPEG or WebP picture, or an MP4 or WebM clip.")],
    as_json: AsJson = False,
    port: Port = None,
    data_dir: DataDir = None,
) -> None:
    """Send a picture or clip and print its id, which `agentname run --image` and others take."""
    if not file.expanduser().is_file():
        fail(f"{file}: there is no such file.", Exit.WRONG_USE)
    with connect(port, data_dir) as client:
        sent = client.upload(file.expanduser())
    typer.echo(json.dumps(sent.as_json()) if as_json else sent.file_id)


@app.command("list")
def files_list(
    limit: Annotated[int, typer.Option(help="Number of files to list, at most 100.")] = 20,
    as_json: AsJson = False,
    port: Port = None,
    data_dir: DataDir = None,
) -> None:
    """List your files, the newest first, and the space that they take on the server."""
    with connect(port, data_dir) as client:
        page = client.files(limit)
    if as_json:
        typer.echo(json.dumps(page.as_json()))
        return
    print_table(
        ["id", "type", "width x height", "size", "until"],
        [
            [f.file_id, f.mime_type, f"{f.width}x{f.height}", size(f.n_bytes), f"{f.expires_at:%Y-%m-%d %H:%M}"]
            for f in page.files
        ],
    )
    limit_text = "" if page.limit_bytes is None else f" of {size(page.limit_bytes)}"
    typer.echo(f"All files take {size(page.used_bytes)}{limit_text}.", err=True)


@app.command("delete")
def files_delete(
    ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Ids of files: agentname files list")],
    port: Port = None,
    data_dir: DataDir = None,
) -> None:
    """Delete files. Jobs that were accepted with them still run."""
    with connect(port, data_dir) as client:
        for file_id in ids:
            client.delete_file(file_id)
            typer.echo(f"Deleted {file_id}.")
