"""Turns tokens into text that may be shown: whole characters, and no part of a stop string. Any thread; no torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

Decode: TypeAlias = Callable[[list[int]], str]

REPLACEMENT = "\ufffd"  # decoders return it for bytes that are no character, or not a whole one yet
MAX_OPEN_BYTES = 3  # most bytes of an incomplete UTF-8 character


class TokenText:
    """The text of a growing list of tokens; a character appears once all its bytes are there.

    Decodes only the last few tokens. A decoder may treat the first token of a list specially (and drop a leading
    space), so the decoded window always begins with tokens whose text has been returned already.
    """

    def __init__(self, decode: Decode) -> None:
        self._decode = decode
        self._window: list[int] = []
        self._n_context = 0  # tokens at the start of the window that are only context
        self._n_shown = 0  # characters of the decoded window that have been returned

    def push(self, token: int) -> str:
        """Return the text that this token completes; empty while a character is incomplete."""
        self._window.append(token)
        text = self._decode(self._window)
        n_open = min(MAX_OPEN_BYTES, len(text) - len(text.rstrip(REPLACEMENT)))
        whole = text[: len(text) - n_open]
        new = whole[self._n_shown :]
        if n_open:
            self._n_shown = max(self._n_shown, len(whole))
        elif new:
            self._window = self._window[self._n_context :]
            self._n_context = len(self._window)
            self._n_shown = len(self._decode(self._window))
        return new


class StopStrings:
    """Passes text on up to the first stop string, and holds back what may still become one.

    Of several stop strings the first to be complete counts, and of those the longest. So where the text is cut does not
    depend on the pieces in which it arrives.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._pending = ""
        self.found = False

    def push(self, text: str) -> str:
        if self.found:
            return ""
        self._pending += text
        matches = [(start + len(stop), start) for stop in self._stops if (start := self._pending.find(stop)) >= 0]
        if matches:
            self.found = True
            _, start = min(matches)
            text, self._pending = self._pending[:start], ""
            return text
        n_pending = max((_overlap(self._pending, stop) for stop in self._stops), default=0)
        cut = len(self._pending) - n_pending
        text, self._pending = self._pending[:cut], self._pending[cut:]
        return text

    def flush(self) -> str:
        """Return what was held back, because the text ends here."""
        text, self._pending = self._pending, ""
        return text


class ReplyText:
    """The text of one reply as it grows."""

    def __init__(self, decode: Decode, stops: Sequence[str]) -> None:
        self._tokens = TokenText(decode)
        self._stops = StopStrings(stops)
        self._shown: list[str] = []

    @property
    def stopped(self) -> bool:
        """Whether a stop string is complete: the reply ends before it."""
        return self._stops.found

    @property
    def text(self) -> str:
        """All text returned so far."""
        return "".join(self._shown)

    def push(self, token: int) -> str:
        return self._show(self._stops.push(self._tokens.push(token)))

    def finish(self) -> str:
        """Return the rest of the text. A character whose last bytes never came is dropped."""
        return self._show(self._stops.flush())

    def _show(self, text: str) -> str:
        if text:
            self._shown.append(text)
        return text


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that is a proper beginning of `stop`."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
