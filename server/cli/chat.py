"""`chat`: sends one message and prints the reply, or holds a conversation until Ctrl-D."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from server.cli.connection import DataDir, Port, connect
from server.cli.exit_codes import Exit
from server.cli.output import fail

if TYPE_CHECKING:
    from server.client import AgentName, ChatReply
    from server.client.options import ChatOptions

app = typer.Typer()

HELP = "/new starts another conversation, /exit or Ctrl-D leaves, Ctrl-C cancels a reply."


@app.command()
def chat(
    message: Annotated[
        str | None,
        typer.Argument(help="The message. Without it: standard input, or on a terminal a conversation."),
    ] = None,
    system: Annotated[str | None, typer.Option(help="The system prompt.")] = None,
    model: Annotated[str | None, typer.Option(help="Name of a model: agentname list")] = None,
    conversation: Annotated[
        str | None, typer.Option(metavar="ID", help="Continue a conversation: agentname conversations list")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole reply as JSON, for scripts.")] = False,
    port: Port = None,
    data_dir: DataDir = None,
) -> None:
    """Send a message to a model and print its reply as it is generated."""
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
        fail("--json needs a message, as an argument or on standard input.", Exit.WRONG_USE)
    with connect(port, data_dir) as client:
        if message is None:
            _converse(client, options)
        elif as_json:
            typer.echo(json.dumps(client.chat(message, **options).as_json(), ensure_ascii=False))
        else:
            _send(client, message, options)


def _converse(client: AgentName, options: ChatOptions) -> None:
    import readline  # noqa: F401  # gives `input` a history and line editing

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
            options["conversation_id"] = _send(client, line, options).conversation_id
        except KeyboardInterrupt:  # the stream is closed, which cancels the reply
            typer.echo()
        except Refused as error:
            if error.code in (401, 403):
                raise
            typer.echo(error.message, err=True)


def _line() -> str | None:
    """Returns the next line, or None at the end of the input and for Ctrl-C at the prompt."""
    try:
        return input(">>> ")
    except (EOFError, KeyboardInterrupt):
        typer.echo()
        return None


def _send(client: AgentName, message: str, options: ChatOptions) -> ChatReply:
    """Sends the message, prints the reply piece by piece and returns it."""
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
