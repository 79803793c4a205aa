"""Turns tokens into text that may be shown: whole characters only, and nothing of a stop string. Pure, no torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

Decode: TypeAlias = Callable[[list[int]], str]

REPLACEMENT = "\ufffd"  # what decoders put for bytes that are no character, or not one yet
OPEN_BYTES = 3  # most bytes of a UTF-8 character that can be there without its end


class TokenText:
    """Text of a growing list of tokens, a character once all its bytes are there.

    Decodes only the last few tokens: a decoder may treat the first token of a list in its own way (it drops a leading
    space), so the window always starts one token group before what is new.
    """

    def __init__(self, decode: Decode) -> None:
        self._decode = decode
        self._window: list[int] = []
        self._n_context = 0  # tokens at the start of the window that are only context
        self._n_told = 0  # characters of the decoded window that have been returned

    def push(self, token: int) -> str:
        """The text this token completed; empty while a character is open."""
        self._window.append(token)
        text = self._decode(self._window)
        n_open = min(OPEN_BYTES, len(text) - len(text.rstrip(REPLACEMENT)))
        whole = text[: len(text) - n_open]
        new = whole[self._n_told :]
        if n_open:
            self._n_told = max(self._n_told, len(whole))
        elif new:
            self._window = self._window[self._n_context :]
            self._n_context = len(self._window)
            self._n_told = len(self._decode(self._window))
        return new


class StopStrings:
    """Passes text on up to the first stop string, and holds back what may still become one.

    Of several stop strings the one that is complete first counts, the longest of those: where the text is cut does not depend
    on the pieces it came in.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""
        self.found = False

    def push(self, text: str) -> str:
        if self.found:
            return ""
        self._held += text
        matches = [(start + len(stop), start) for stop in self._stops if (start := self._held.find(stop)) >= 0]
        if matches:
            self.found = True
            _, start = min(matches)
            free, self._held = self._held[:start], ""
            return free
        n_held = max((_overlap(self._held, stop) for stop in self._stops), default=0)
        cut = len(self._held) - n_held
        free, self._held = self._held[:cut], self._held[cut:]
        return free

    def flush(self) -> str:
        """What was held back, when the text ends here."""
        free, self._held = self._held, ""
        return free


class ReplyText:
    """The text of one reply as it grows."""

    def __init__(self, decode: Decode, stops: Sequence[str]) -> None:
        self._tokens = TokenText(decode)
        self._stops = StopStrings(stops)
        self._told: list[str] = []

    @property
    def stopped(self) -> bool:
        """A stop string is complete: the reply ends before it."""
        return self._stops.found

    @property
    def text(self) -> str:
        """All that was returned so far."""
        return "".join(self._told)

    def push(self, token: int) -> str:
        return self._tell(self._stops.push(self._tokens.push(token)))

    def finish(self) -> str:
        """The rest. A character whose last bytes never came is dropped."""
        return self._tell(self._stops.flush())

    def _tell(self, text: str) -> str:
        if text:
            self._told.append(text)
        return text


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that is a beginning of `stop`, all of `stop` left out."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
