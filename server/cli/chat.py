"""`chat`: sends one message and prints the reply, or holds a conversation until Ctrl-D."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from server.cli.connection import DataDir, Port, connect
from server.cli.exit_codes import Exit
from server.cli.output import fail
from server.cli.reply_printer import ReplyPrinter

if TYPE_CHECKING:
    from server.client import AgentName, ChatReply
    from server.client.options import ChatOptions, Thinking

app = typer.Typer()

HELP = """\
/new starts another conversation, /exit or Ctrl-D leaves, Ctrl-C cancels a reply.
/think switches thinking off and on, /think low, medium or high limits it."""


class Level(StrEnum):
    """How much a model may think."""

    OFF = "off"
    ON = "on"
    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"


FIELDS: dict[Level, Thinking] = {  # as the API spells them
    Level.OFF: False,
    Level.ON: True,
    Level.LOW: "low",
    Level.MEDIUM: "medium",
    Level.HIGH: "high",
}


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
    thinking: Annotated[
        Level | None,
        typer.Option(
            help="How much the model may think before it replies: off, on, low, medium, high. Default: the model's own."
        ),
    ] = None,
    show_thinking: Annotated[
        bool | None,
        typer.Option(
            "--show-thinking/--hide-thinking",
            help="Whether to print what the model thinks. Default: on a terminal only.",
            show_default=False,
        ),
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
    if thinking is not None:
        options["thinking"] = FIELDS[thinking]
    if message is None and not sys.stdin.isatty():
        message = sys.stdin.read()
    if message is None and as_json:
        fail("--json needs a message, as an argument or on standard input.", Exit.WRONG_USE)
    with connect(port, data_dir) as client:
        if message is None:
            _converse(client, options, show_thinking)
        elif as_json:
            *_, reply = client.stream_chat(message, **options)  # unlike a whole reply, it may take any time
            typer.echo(json.dumps(reply.as_json(), ensure_ascii=False))
        else:
            _send(client, message, options, show_thinking)


def _converse(client: AgentName, options: ChatOptions, show_thinking: bool | None) -> None:
    import readline  # noqa: F401  # gives `input` a history and line editing

    from server.client import Refused

    typer.echo(HELP, err=True)
    while (line := _line()) is not None:
        match line.split():
            case []:
                continue
            case ["/exit" | "/quit"]:
                return
            case ["/new"]:
                options.pop("conversation_id", None)
                continue
            case ["/think"]:
                _set_thinking(options, Level.ON if options.get("thinking") is False else Level.OFF)
                continue
            case ["/think", level] if level in FIELDS:
                _set_thinking(options, Level(level))
                continue
            case [command, *_] if command.startswith("/"):
                typer.echo(HELP, err=True)
                continue
        try:
            options["conversation_id"] = _send(client, line, options, show_thinking).conversation_id
        except KeyboardInterrupt:  # the stream is closed, which cancels the reply
            continue
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


def _set_thinking(options: ChatOptions, level: Level) -> None:
    options["thinking"] = FIELDS[level]
    typer.echo(f"Thinking: {level}.", err=True)


def _send(client: AgentName, message: str, options: ChatOptions, show_thinking: bool | None) -> ChatReply:
    """Sends the message, prints the reply piece by piece and returns it."""
    from contextlib import closing

    from server.client import ChatReply

    printer = ReplyPrinter(show_thinking)
    try:
        with closing(client.stream_chat(message, **options)) as pieces:
            for piece in pieces:
                if isinstance(piece, ChatReply):
                    printer.end()
                    _print_notes(piece)
                    return piece
                printer.think(piece.thinking)
                printer.say(piece.text)
    except KeyboardInterrupt:
        typer.echo()
        raise
    raise AssertionError("a stream ends with the reply or raises")


def _print_notes(reply: ChatReply) -> None:
    notes = list(reply.warnings)
    if reply.thinking and not reply.reply:
        notes.append("There is no reply: it ended while the model was thinking.")
    for note in notes:
        typer.echo(f"Note: {note}", err=True)
