"""What a reader gets of one reply: tokens become text, thinking and content are told apart, stop strings end it.

Any thread; no torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias

from pipelines.chat.replies.detokenize import Piece, TokenStream
from pipelines.chat.replies.stopping import StopStrings
from pipelines.chat_interface import CallDelta, Section, ToolCall

if TYPE_CHECKING:
    from pipelines.chat.tools.call_reader import CallReader


@dataclass(frozen=True, slots=True)
class NextPart:
    """What may come next in a reply whose answer follows a grammar. Without the first five: thinking, which is free."""

    answer: bool = False  # the answer begins here or goes on
    white: bool = False  # white space here is no part of the answer
    thinking: tuple[str, ...] = ()  # texts that begin thinking
    opening: tuple[str, ...] = ()  # texts that come right before the answer
    header: tuple[str, ...] = ()  # texts that come before all of these
    closing: str = ""  # what is left of the text that ends thinking, once it has begun


ANSWER = NextPart(answer=True)
FREE = NextPart()


class SectionReader(Protocol):
    """Tells thinking from content, and leaves out what marks them."""

    @property
    def section(self) -> Section:
        """What the next token belongs to."""

    @property
    def next_part(self) -> NextPart: ...

    def push(self, piece: Piece) -> Sequence[tuple[Section, Piece]]: ...

    def finish(self) -> Sequence[tuple[Section, Piece]]:
        """Return what was held back, because the reply ends here."""


class PlainSections:
    """For models that do not think: all is content."""

    section: Section = "content"
    next_part = ANSWER

    def push(self, piece: Piece) -> Sequence[tuple[Section, Piece]]:
        return (("content", piece),)

    def finish(self) -> Sequence[tuple[Section, Piece]]:
        return ()


Part: TypeAlias = tuple[Section, str] | CallDelta  # of a reply: text, or the next part of a call
_Passed: TypeAlias = tuple[Section, Piece | CallDelta]


class ReplyText:
    """The text of one reply as it grows. Names of special tokens are left out; stop strings end the content only."""

    def __init__(
        self,
        stream: TokenStream,
        sections: SectionReader,
        stops: Sequence[str],
        calls: CallReader | None = None,
    ) -> None:
        """calls: tells calls of tools from the content; None: there are none."""
        self._stream = stream
        self._sections = sections
        self._stop_texts = stops
        self._stops = StopStrings(stops)
        self._calls = calls
        self._called: list[tuple[str, str, list[str]]] = []  # id, name and the parts of the arguments
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
    def next_part(self) -> NextPart:
        return self._sections.next_part

    @property
    def text(self) -> str:
        """All content returned so far."""
        return "".join(self._shown["content"])

    @property
    def thinking(self) -> str:
        """All thinking returned so far."""
        return "".join(self._shown["thinking"])

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """All calls returned so far."""
        return tuple(ToolCall(call_id, name, "".join(parts)) for call_id, name, parts in self._called)

    @property
    def has_all_calls(self) -> bool:
        """Whether the reply has the one call that it may have, and ends behind it."""
        return self._calls is not None and self._calls.complete

    @property
    def calling(self) -> bool:
        """Whether the next token belongs to a call."""
        return self._calls is not None and self._calls.calling

    @property
    def has_cut_call(self) -> bool:
        """Whether the arguments of a call are not complete."""
        return self._calls is not None and self._calls.n_cut > 0

    def push(self, token: int) -> Sequence[Part]:
        """Return the text that this token completes, and the next parts of calls."""
        return self._show(self._without_stop(self._with_calls(self._read(self._stream.push(token)))))

    def finish(self, *, cut_off: bool = False) -> Sequence[Part]:
        """Return the rest. A character whose last bytes never came is dropped. cut_off: by the limit of tokens."""
        rest = [*self._read(self._stream.finish()), *self._sections.finish()]
        called = [*self._with_calls(rest), *self._last_calls(cut_off)]
        shown = [*self._without_stop(called), *(("content", piece) for piece in self._stops.flush())]
        return self._show(shown)

    def _read(self, pieces: Iterable[Piece]) -> Iterable[tuple[Section, Piece]]:
        for piece in pieces:
            yield from self._sections.push(piece)

    def _with_calls(self, pieces: Iterable[tuple[Section, Piece]]) -> Iterable[_Passed]:
        for section, piece in pieces:
            if section != "content" or self._calls is None:
                yield section, piece
            else:
                for shown in self._calls.push(piece):
                    yield section, shown

    def _last_calls(self, cut_off: bool) -> Iterable[_Passed]:
        for shown in () if self._calls is None else self._calls.finish(cut_off=cut_off):
            yield "content", shown

    def _without_stop(self, pieces: Iterable[_Passed]) -> Iterable[_Passed]:
        for section, piece in pieces:
            if self.stopped:
                return
            if section != "content":
                yield section, piece
                continue
            if isinstance(piece, CallDelta):  # no stop string goes on behind a call
                passed = self._stops.flush()
                self._stops = StopStrings(self._stop_texts)
            else:
                passed = self._stops.push(piece)
            for each in passed:
                yield "content", each
            if isinstance(piece, CallDelta):
                yield "content", piece

    def _show(self, pieces: Iterable[_Passed]) -> Sequence[Part]:
        joined: list[Part] = []
        for section, piece in pieces:
            if isinstance(piece, CallDelta):
                self._add(piece)
                joined.append(piece)
                continue
            if piece.special or not piece.text:
                continue
            self._shown[section].append(piece.text)
            last = joined[-1] if joined else None
            if last is not None and not isinstance(last, CallDelta) and last[0] == section:
                joined[-1] = section, last[1] + piece.text
            else:
                joined.append((section, piece.text))
        return joined

    def _add(self, part: CallDelta) -> None:
        if part.name:
            self._called.append((part.id, part.name, []))
        self._called[-1][2].append(part.arguments)
