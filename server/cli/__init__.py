"""The command line: one file per group of commands, each a typer app that is joined here.

A command imports its dependencies inside its function, so that `keys create` does not wait for a heavy import.
"""

from __future__ import annotations

import typer

from server.cli import backup, catalogue, chat, check, conversations, doctor, files, keys, model_control, run, serve

app = typer.Typer(
    name="agentname",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Images, videos and chat on your own machine.",
)
for group in (serve, run, chat, catalogue, check, model_control, doctor, backup):
    app.add_typer(group.app)
app.add_typer(conversations.app, name="conversations")
app.add_typer(files.app, name="files")
app.add_typer(keys.app, name="keys")


def main() -> None:
    app()
