"""`conversations`: what was said, kept by the server: list, show, rename, forget. `chat --conversation ID` goes on with one."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from server.cli.common import DataDir, Port, connect, print_table

app = typer.Typer(no_args_is_help=True, help="Conversations the server keeps: list, show, rename, forget.")

Id = Annotated[str, typer.Argument(metavar="ID", help="As `conversations list` tells it.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the server's reply, for scripts.")]


@app.command("list")
def conversations_list(
    limit: Annotated[int, typer.Option(help="The latest so many, at most 100.")] = 20,
    as_json: AsJson = False,
    port: Port = None,
    data_dir: DataDir = None,
) -> None:
    """One's own, the one spoken in last first."""
    with connect(port, data_dir) as client:
        page = client.conversations(limit)
    if as_json:
        typer.echo(json.dumps(page.as_json(), ensure_ascii=False))
        return
    print_table(
        ["id", "last", "model", "title"],
        [[c.conversation_id, f"{c.updated_at:%Y-%m-%d %H:%M}", c.model or "", c.title] for c in page.conversations],
    )


@app.command("show")
def conversations_show(conversation: Id, as_json: AsJson = False, port: Port = None, data_dir: DataDir = None) -> None:
    """All that was said."""
    with connect(port, data_dir) as client:
        whole = client.conversation(conversation)
    if as_json:
        typer.echo(json.dumps(whole.as_json(), ensure_ascii=False))
        return
    for said in whole.messages:
        typer.echo(f">>> {said.content}" if said.role == "user" else said.content)


@app.command("rename")
def conversations_rename(
    conversation: Id,
    title: Annotated[str, typer.Argument(help="At most 100 characters.")],
    port: Port = None,
    data_dir: DataDir = None,
) -> None:
    """Call it something else than its first words."""
    with connect(port, data_dir) as client:
        typer.echo(client.rename_conversation(conversation, title).title)


@app.command("forget")
def conversations_forget(conversation: Id, port: Port = None, data_dir: DataDir = None) -> None:
    """Delete it with all that was said in it."""
    with connect(port, data_dir) as client:
        client.forget_conversation(conversation)
    typer.echo(f"Forgotten: {conversation}")
