"""`conversations`: lists, shows, renames and deletes the conversations that the server stores."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from server.cli.connection import DataDir, Port, connect
from server.cli.output import print_table
from server.cli.reply_printer import ReplyPrinter

app = typer.Typer(no_args_is_help=True, help="Stored conversations: list, show, rename, forget.")

Id = Annotated[str, typer.Argument(metavar="ID", help="Id of a conversation: agentname conversations list")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the server's reply, for scripts.")]


@app.command("list")
def conversations_list(
    limit: Annotated[int, typer.Option(help="Number of conversations to list, at most 100.")] = 20,
    as_json: AsJson = False,
    port: Port = None,
    data_dir: DataDir = None,
) -> None:
    """List your conversations, the most recent first. Continue one with `agentname chat --conversation ID`."""
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
    """Print all messages of a conversation."""
    with connect(port, data_dir) as client:
        whole = client.conversation(conversation)
    if as_json:
        typer.echo(json.dumps(whole.as_json(), ensure_ascii=False))
        return
    printer = ReplyPrinter()
    for message in whole.messages:
        if message.role == "user":
            typer.echo(f">>> {message.content}")
        else:
            printer.think(message.thinking)
            printer.say(message.content)
            printer.end()


@app.command("rename")
def conversations_rename(
    conversation: Id,
    title: Annotated[str, typer.Argument(help="The new title, at most 100 characters.")],
    port: Port = None,
    data_dir: DataDir = None,
) -> None:
    """Give a conversation another title."""
    with connect(port, data_dir) as client:
        typer.echo(client.rename_conversation(conversation, title).title)


@app.command("forget")
def conversations_forget(conversation: Id, port: Port = None, data_dir: DataDir = None) -> None:
    """Delete a conversation with all its messages."""
    with connect(port, data_dir) as client:
        client.forget_conversation(conversation)
    typer.echo(f"Deleted {conversation}.")
