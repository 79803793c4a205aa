"""What a reader gets of one reply: tokens become text, thinking and content are told apart, stop strings end it.

Any thread; no torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from pipelines.chat.replies.detokenize import Piece, TokenStream
from pipelines.chat.replies.stopping import StopStrings
from pipelines.chat_interface import Section


class SectionReader(Protocol):
    """Tells thinking from content, and leaves out what marks them."""

    @property
    def section(self) -> Section:
        """What the next token belongs to."""

    def push(self, piece: Piece) -> Sequence[tuple[Section, Piece]]: ...

    def finish(self) -> Sequence[tuple[Section, Piece]]:
        """Return what was held back, because the reply ends here."""


class PlainSections:
    """For models that do not think: all is content."""

    section: Section = "content"

    def push(self, piece: Piece) -> Sequence[tuple[Section, Piece]]:
        return (("content", piece),)

    def finish(self) -> Sequence[tuple[Section, Piece]]:
        return ()


class ReplyText:
    """The text of one reply as it grows. Names of special tokens are left out; stop strings end the content only."""

    def __init__(self, stream: TokenStream, sections: SectionReader, stops: Sequence[str]) -> None:
        self._stream = stream
        self._sections = sections
        self._stops = StopStrings(stops)
        self._shown: dict[Section, list[str]] = {"thinking": [], "content": []}

    @property
    def stopped(self) -> bool:
        """Whether a stop string is complete: the reply ends before it."""
        return self._stops.found is not None

    @property
    def stop_text(self) -> str | None:
        """The stop string that is complete."""
        return self._stops.found

    @property
    def section(self) -> Section:
        """What the next token belongs to."""
        return self._sections.section

    @property
    def text(self) -> str:
        """All content returned so far."""
        return "".join(self._shown["content"])

    @property
    def thinking(self) -> str:
        """All thinking returned so far."""
        return "".join(self._shown["thinking"])

    def push(self, token: int) -> Sequence[tuple[Section, str]]:
        """Return the text that this token completes."""
        return self._show(self._without_stop(self._read(self._stream.push(token))))

    def finish(self) -> Sequence[tuple[Section, str]]:
        """Return the rest of the text. A character whose last bytes never came is dropped."""
        rest = [*self._read(self._stream.finish()), *self._sections.finish()]
        shown = [*self._without_stop(rest), *(("content", piece) for piece in self._stops.flush())]
        return self._show(shown)

    def _read(self, pieces: Iterable[Piece]) -> Iterable[tuple[Section, Piece]]:
        for piece in pieces:
            yield from self._sections.push(piece)

    def _without_stop(self, pieces: Iterable[tuple[Section, Piece]]) -> Iterable[tuple[Section, Piece]]:
        for section, piece in pieces:
            if self.stopped:
                return
            if section == "content":
                for passed in self._stops.push(piece):
                    yield "content", passed
            else:
                yield section, piece

    def _show(self, pieces: Iterable[tuple[Section, Piece]]) -> Sequence[tuple[Section, str]]:
        joined: list[tuple[Section, str]] = []
        for section, piece in pieces:
            if piece.special or not piece.text:
                continue
            self._shown[section].append(piece.text)
            if joined and joined[-1][0] == section:
                joined[-1] = section, joined[-1][1] + piece.text
            else:
                joined.append((section, piece.text))
        return joined
