"""Tells the calls of tools from the text of a reply, while both come. Any thread; no torch.

What looks like a call and turns out to be none is text, as it stood. White space around calls belongs to nothing. Nor
does the beginning of a call, where the limit of tokens cuts the reply off before it is sure which tool is called.
"""

from __future__ import annotations

import secrets
import string
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from pipelines.chat.replies.detokenize import Piece
from pipelines.chat.replies.markup import WHITE, n_partial, split_pieces, text_of
from pipelines.chat.tools.call_source import Arguments, Begin, Event, NotACall, Source, Steps
from pipelines.chat.tools.call_syntax import Opening
from pipelines.chat_interface import CallDelta, Tool

ID_CHARACTERS = string.ascii_letters + string.digits
ID_LENGTH = 24
Shown: TypeAlias = Piece | CallDelta


def new_call_id() -> str:
    return "call_" + "".join(secrets.choice(ID_CHARACTERS) for _ in range(ID_LENGTH))


class CallReader:
    """Reads one reply."""

    def __init__(
        self,
        openings: Sequence[Opening],
        tools: Mapping[str, Tool],
        *,
        parallel: bool = True,
        required: bool = False,
        is_id: Callable[[str], bool] = lambda _: False,
    ) -> None:
        """tools: those that may be called, by name. parallel: there may be several calls. required: the reply is
        calls and nothing else. is_id: whether to keep an id that the model wrote.
        """
        self._openings = openings
        self._first_characters = {opening.text[0] for opening in openings}
        self._tools = tools
        self._parallel = parallel
        self._required = required
        self._is_id = is_id
        self._held: list[Piece] = []  # text that may become a call
        self._holds_white = False  # and nothing else
        self._source: Source | None = None  # of what may be a call
        self._steps: Steps[None] | None = None
        self._is_certain = False  # what the source has can be nothing but a call
        self._ended = False
        self._is_cut_off = False  # the limit of tokens ended the reply
        self._has_dropped = False  # the beginning of a call, because the reply was cut off
        self._is_open = False  # a call has begun and not ended
        self._is_fresh = True  # no text since the reply began, or since the last call
        self._has_text = False
        self.n_calls = 0
        self.n_cut = 0  # calls whose arguments are not complete

    @property
    def complete(self) -> bool:
        """Whether the reply has all the calls that it may have."""
        return not self._parallel and self.n_calls > 0 and not self._is_open

    @property
    def calling(self) -> bool:
        """Whether what comes next belongs to a call, or to the white space behind one."""
        return self._is_open or self._has_dropped or (self.n_calls > 0 and self._is_fresh)

    def push(self, piece: Piece) -> Sequence[Shown]:
        if self.complete:
            return ()
        if self._source is None and not self._held and self._passes(piece):
            return (piece,)
        if self._holds_white and not piece.special and not piece.text.strip(WHITE):
            self._held.append(piece)  # nothing is looked at again, of which there may be thousands
            return ()
        shown: list[Shown] = []
        self._add(piece)
        self._read(shown)
        return shown

    def finish(self, *, cut_off: bool = False) -> Sequence[Shown]:
        """Return what was held back, because the reply ends here. cut_off: by the limit of tokens."""
        if self.complete:
            return ()
        self._ended, self._is_cut_off = True, cut_off
        shown: list[Shown] = []
        self._read(shown)
        if self._is_open:
            self.n_cut += 1
            self._is_open = False
        return shown

    def _passes(self, piece: Piece) -> bool:
        """Whether the piece is text for sure, and nothing else."""
        if self._is_fresh or piece.text[-1:] in WHITE or piece.special:
            return False
        return self._first_characters.isdisjoint(piece.text)

    def _add(self, piece: Piece) -> None:
        if self._source is None:
            self._held.append(piece)
        else:
            self._source.add(piece)

    def _read(self, shown: list[Shown]) -> None:
        while not self.complete and (self._read_text(shown) if self._source is None else self._read_call(shown)):
            pass

    def _read_text(self, shown: list[Shown]) -> bool:
        """Show the text before the first call. Returns whether there is more to read."""
        text = text_of(self._held)
        found = self._first_opening(text)
        if found is None:
            n_unsure = 0 if self._ended else self._n_unsure(text)
            sure = len(text) - n_unsure
            if not self._ended:
                sure = len(text[:sure].rstrip(WHITE))
            before, self._held = split_pieces(self._held, sure)
            self._holds_white = bool(self._held) and not text[sure:].strip(WHITE)
            if self._is_cut_off and self._required:
                self._has_dropped, before = True, []
            self._show(before, shown)
            return False
        self._holds_white = False
        place, opening = found
        n_before = len(text[:place].rstrip(WHITE))
        before, held = split_pieces(self._held, n_before)
        self._show(before, shown)
        self._held = []
        self._source = Source(self._tools)
        for piece in held:
            self._source.add(piece)
        self._source.at = place - n_before + (len(opening.text) if opening.is_markup else 0)
        self._steps = opening.read(self._source)
        self._is_certain = self._required or not opening.at_start
        return True

    def _read_call(self, shown: list[Shown]) -> bool:
        """Read on in what may be a call. Returns whether there is more to read."""
        source, steps = self._source, self._steps
        assert source is not None
        assert steps is not None
        source.ended = self._ended
        try:
            for event in steps:
                if event is None:
                    return False
                self._take(event, shown)
                self._is_certain = True
                source.drop_kept()
                if self.complete:
                    return False
        except NotACall:
            self.n_cut += self._is_open
            self._is_open = False
            if self._is_cut_off and self._is_certain:
                self._source = self._steps = None
                self._has_dropped = True
                return False
        text, self._held = source.split()
        self._source = self._steps = None
        self._show(text, shown)
        return bool(self._held)

    def _take(self, event: Event, shown: list[Shown]) -> None:
        index = self.n_calls - 1
        if isinstance(event, Begin):
            call_id = event.id if self._is_id(event.id) else new_call_id()
            shown.append(CallDelta(self.n_calls, call_id, event.tool.name))
            self.n_calls += 1
            self._is_open = self._is_fresh = True
        elif isinstance(event, Arguments):
            if event.text:
                shown.append(CallDelta(index, arguments=event.text))
        else:
            self._is_open = False

    def _first_opening(self, text: str) -> tuple[int, Opening] | None:
        found: list[tuple[int, int, Opening]] = []
        for i, opening in enumerate(self._openings):
            if opening.at_start:
                start = len(text) - len(text.lstrip(WHITE))
                place = start if self._is_fresh and text.startswith(opening.text, start) else -1
            elif opening.special:
                place = self._in_special(opening.text)
            else:
                place = text.find(opening.text)
            if place >= 0:
                found.append((place, i, opening))
        if not found:
            return None
        place, _, opening = min(found, key=lambda each: each[:2])
        return place, opening

    def _in_special(self, text: str) -> int:
        place = 0
        for piece in self._held:
            if piece.special and text in piece.text:
                return place + piece.text.index(text)
            place += len(piece.text)
        return -1

    def _n_unsure(self, text: str) -> int:
        """How many characters at the end of the text may begin a call."""
        if self._is_fresh and not text.strip(WHITE):
            return len(text)
        lengths = [0]
        for opening in self._openings:
            if opening.at_start:
                body = text.lstrip(WHITE)
                lengths.append(len(body) if self._is_fresh and opening.text.startswith(body) else 0)
            elif not opening.special:
                lengths.append(n_partial(text, opening.text))
        return max(lengths)

    def _show(self, pieces: Sequence[Piece], shown: list[Shown]) -> None:
        """Show text. White space behind a call is left out; a blank line parts what stands on both sides of calls."""
        for piece in pieces:
            if not piece.special and self._is_fresh:
                text = piece.text.lstrip(WHITE) if self.n_calls else piece.text
                if not text:
                    continue
                if self.n_calls and self._has_text and text.strip(WHITE):
                    shown.append(Piece("\n\n"))
                piece = Piece(text)
            if not piece.special and piece.text.strip(WHITE):
                self._is_fresh = False
                self._has_text = True
            if piece.text:
                shown.append(piece)
