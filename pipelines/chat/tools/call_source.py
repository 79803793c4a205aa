"""The text of a call as it comes, and what readers of all formats do with it. Any thread; no torch.

A reader is a generator. It yields what it has understood: `Begin`, then `Arguments`, then `End` of each call. It yields
None when it needs more text. So the code of each format reads as if all the text were there already.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Generator, Mapping
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

from pipelines.chat.replies.detokenize import Piece
from pipelines.chat.replies.markup import WHITE, split_pieces
from pipelines.chat_interface import Tool

MAX_NAME = 256  # characters of a tool's name; more are no name
PREFIX = "functions."  # the namespace of tools in the formats of gpt-oss and Kimi
_WHITE = re.compile(f"[{WHITE}]*")
_NAME = re.compile(rf"[{WHITE}]*[\"']?([A-Za-z0-9_.:/-]*)[\"']?[ \t]*")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Begin:
    """A call begins: it is sure which tool is called."""

    tool: Tool
    id: str = ""  # as the model wrote it; "": it wrote none


@dataclass(frozen=True, slots=True)
class Arguments:
    """The next characters of the arguments as JSON."""

    text: str


@dataclass(frozen=True, slots=True)
class End:
    """The arguments are complete."""


Event: TypeAlias = Begin | Arguments | End
Steps: TypeAlias = Generator[Event | None, None, T]


class NotACall(Exception):
    """What comes next in the source is no part of a call."""


class Source:
    """The text from the beginning of a call on, as far as it has come. `at` is where the next character is read."""

    def __init__(self, tools: Mapping[str, Tool]) -> None:
        """tools: those that may be called, by name."""
        self.tools = tools
        self.text = ""
        self.at = 0
        self.ended = False  # no more text comes
        self._pieces: list[Piece] = []  # of the text
        self._kept = 0  # characters that belong to calls for sure

    def add(self, piece: Piece) -> None:
        self._pieces.append(piece)
        self.text += piece.text

    def drop_kept(self) -> None:
        """Forget the text that belongs to calls. Only where no reader remembers a place: all places move."""
        if self._kept:
            self._pieces = split_pieces(self._pieces, self._kept)[1]
            self.text, self.at, self._kept = self.text[self._kept :], self.at - self._kept, 0

    def keep(self) -> None:
        """What was read so far belongs to calls."""
        self._kept = self.at

    def unread(self) -> None:
        """Go back to what belongs to calls for sure."""
        self.at = self._kept

    def split(self) -> tuple[list[Piece], list[Piece]]:
        """Return what was read and belongs to no call, and what was not read."""
        read, rest = split_pieces(self._pieces, self.at)
        return split_pieces(read, self._kept)[1], rest

    def tool(self, name: str, start: int | None = None) -> Tool:
        """Raises `NotACall` when there is no such tool; what was read since `start` is read again then, as text."""
        found = self.tools.get(name) or self.tools.get(name.removeprefix(PREFIX))
        if found is None:
            self.at = self.at if start is None else start
            raise NotACall
        return found


Reader: TypeAlias = Callable[[Source], Steps[None]]


def peek(source: Source) -> Steps[str]:
    """Return the next character; "" at the end of the reply."""
    while source.at >= len(source.text):
        if source.ended:
            return ""
        yield None
    return source.text[source.at]


def skip_white(source: Source) -> Steps[str]:
    """Skip white space, and return the character behind it; "" at the end of the reply."""
    while True:
        match = _WHITE.match(source.text, source.at)
        assert match is not None
        source.at = match.end()
        if source.at < len(source.text) or source.ended:
            return (yield from peek(source))
        yield None


def accept(source: Source, *literals: str) -> Steps[str]:
    """Read the one of these texts that comes next, the longest if several do. Returns ""; if none does."""
    for literal in sorted(filter(None, literals), key=len, reverse=True):
        while not source.ended and literal.startswith(source.text[source.at :]) and not _is_next(source, literal):
            yield None
        if _is_next(source, literal):
            source.at += len(literal)
            return literal
    return ""


def expect(source: Source, *literals: str) -> Steps[str]:
    """Read the one of these texts that comes next. Raises `NotACall` when none does."""
    found = yield from accept(source, *literals)
    if not found:
        raise NotACall
    return found


def until(source: Source, ends: Collection[str], most: int | None = None) -> Steps[tuple[str, str]]:
    """Read up to the first of the ends and over it. Returns the text before it, and the end.

    Raises `NotACall` when the reply ends before, or the text is longer than `most` characters.
    """
    start = searched = source.at
    longest = max(map(len, ends))
    while True:
        found = [(place, -len(end), end) for end in ends if (place := source.text.find(end, searched)) >= 0]
        sure = len(source.text) if source.ended else len(source.text) - longest + 1
        if found and (min(found)[0] < sure or len(ends) == 1):
            place, _, end = min(found)
            if most is not None and place - start > most:
                break
            source.at = place + len(end)
            return source.text[start:place], end
        if source.ended or (most is not None and len(source.text) - start > most + longest):
            break
        searched = max(start, sure)
        yield None
    raise NotACall


def close(source: Source, literal: str) -> Steps[bool]:
    """Read the end of a call, if it comes next, and the white space before it; else nothing. Returns whether it came.

    The end of the reply may cut it off.
    """
    yield from skip_white(source)
    found = (yield from accept(source, literal)) != ""
    if not found and source.ended and literal.startswith(source.text[source.at :]):
        source.at = len(source.text)
        found = True
    if found:
        source.keep()
    else:
        source.unread()
    return found


def name_until(source: Source, *ends: str) -> Steps[tuple[Tool, str]]:
    """Read a tool's name up to one of the ends and over it. Raises `NotACall` when there is no such tool."""
    start = source.at
    while True:
        match = _NAME.match(source.text, start)
        assert match is not None
        if match.end() < len(source.text) or source.ended or match.end() - start > MAX_NAME:
            break
        yield None
    source.at = match.end()
    if "\n" not in ends:
        yield from skip_white(source)
    end = yield from accept(source, *ends)
    if not end:
        source.at = start
        raise NotACall
    return source.tool(match[1], start), end


def _is_next(source: Source, literal: str) -> bool:
    return source.text.startswith(literal, source.at)
