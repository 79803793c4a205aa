"""Prints a reply piece by piece. What the model thinks before it is dimmed, and between two lines that say so."""

from __future__ import annotations

import sys

import typer


class ReplyPrinter:
    def __init__(self, shows_thinking: bool | None = None) -> None:
        """shows_thinking: None: only on a terminal, so that a pipe gets the reply alone."""
        self._shows_thinking = sys.stdout.isatty() if shows_thinking is None else shows_thinking
        self._thinking = False  # whether the last piece was of the thinking
        self._line_is_open = False  # whether the thinking has begun a line

    def think(self, text: str) -> None:
        if not text or not self._shows_thinking:
            return
        if not self._thinking:
            self._thinking = True
            _dimmed("Thinking...\n")
        _dimmed(text)
        self._line_is_open = not text.endswith("\n")

    def say(self, text: str) -> None:
        if not text:
            return
        self._end_thinking()
        typer.echo(text, nl=False)
        sys.stdout.flush()

    def end(self) -> None:
        self._end_thinking()
        typer.echo()

    def _end_thinking(self) -> None:
        if self._thinking:
            self._thinking = False
            _dimmed(("\n" if self._line_is_open else "") + "...done thinking.\n\n")


def _dimmed(text: str) -> None:
    """Each piece ends the style that it begins, so that an interrupted reply leaves the terminal as it was."""
    typer.secho(text, dim=True, nl=False)  # plain text where standard output is no terminal
    sys.stdout.flush()
