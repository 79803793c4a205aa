"""`chat`: one message and its reply, or a conversation until Ctrl-D."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from server.cli.common import DataDir, Port, connect, fail
from server.cli.exits import Exit

if TYPE_CHECKING:
    from server.client import AgentName, ChatReply
    from server.client.options import ChatOptions

app = typer.Typer()

HELP = "/new begins another conversation, /exit or Ctrl-D leaves, Ctrl-C stops a reply."


@app.command()
def chat(
    message: Annotated[str | None, typer.Argument(help="Without it: from standard input, or a conversation.")] = None,
    system: Annotated[str | None, typer.Option(help="What the model is told before everything else.")] = None,
    model: Annotated[str | None, typer.Option(help="A name from: agentname list")] = None,
    conversation: Annotated[
        str | None, typer.Option(metavar="ID", help="Go on with one of: agentname conversations list")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole reply as JSON, for scripts.")] = False,
    port: Port = None,
    data_dir: DataDir = None,
) -> None:
    """Say something to a model; the reply appears as it is made."""
    options: ChatOptions = {}
    if system is not None:
        options["system"] = system
    if model is not None:
        options["model"] = model
    if conversation is not None:
        options["conversation_id"] = conversation
    if message is None and not sys.stdin.isatty():
        message = sys.stdin.read()
    if message is None and as_json:
        fail("--json is for one message: give it as an argument or on standard input.", Exit.WRONG_USE)
    with connect(port, data_dir) as client:
        if message is None:
            _converse(client, options)
        elif as_json:
            typer.echo(json.dumps(client.chat(message, **options).as_json(), ensure_ascii=False))
        else:
            _say(client, message, options)


def _converse(client: AgentName, options: ChatOptions) -> None:
    import readline  # noqa: F401  # gives `input` a history and editing

    from server.client import Refused

    typer.echo(HELP, err=True)
    while (line := _line()) is not None:
        match line.strip():
            case "":
                continue
            case "/exit" | "/quit":
                return
            case "/new":
                options.pop("conversation_id", None)
                continue
            case command if command.startswith("/"):
                typer.echo(HELP, err=True)
                continue
        try:
            options["conversation_id"] = _say(client, line, options).conversation_id
        except KeyboardInterrupt:  # the stream is closed: the model has stopped
            typer.echo()
        except Refused as error:
            if error.code in (401, 403):
                raise
            typer.echo(error.message, err=True)


def _line() -> str | None:
    """None at the end of the input, and for Ctrl-C where nothing runs."""
    try:
        return input(">>> ")
    except (EOFError, KeyboardInterrupt):
        typer.echo()
        return None


def _say(client: AgentName, message: str, options: ChatOptions) -> ChatReply:
    from contextlib import closing

    from server.client import ChatReply

    with closing(client.stream_chat(message, **options)) as pieces:
        for piece in pieces:
            if isinstance(piece, ChatReply):
                typer.echo()
                return piece
            typer.echo(piece.text, nl=False)
            sys.stdout.flush()
    raise AssertionError("a stream ends with the reply or raises")
