"""Ends a reply before its first stop string, and holds back text that may still become one. Any thread; no torch."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from pipelines.chat.replies.detokenize import Piece


class StopStrings:
    """Passes pieces on up to the first stop string. The names of special tokens belong to the text that is searched.

    Of several stop strings the first to be complete counts, and of those the longest. So where the text is cut does not
    depend on the pieces in which it arrives.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._matches = [_Match(stop) for stop in dict.fromkeys(stops) if stop]
        self._first_characters = {match.stop[0] for match in self._matches}
        self._held: deque[Piece] = deque()
        self._n_held = 0  # characters
        self.found: str | None = None  # the stop string that is complete

    def push(self, piece: Piece) -> Sequence[Piece]:
        if self.found is not None:
            return ()
        if not self._held and self._first_characters.isdisjoint(piece.text):
            return (piece,)
        for index, character in enumerate(piece.text):
            complete = [match.stop for match in self._matches if match.push(character)]
            if complete:
                self.found = max(complete, key=len)
                self._hold(Piece(piece.text[: index + 1], piece.special))
                return self._release(self._n_held - len(self.found))
        self._hold(piece)
        return self._release(self._n_held - max(match.length for match in self._matches))

    def flush(self) -> Sequence[Piece]:
        """Return what was held back, because the text ends here."""
        return () if self.found is not None else self._release(self._n_held)

    def _hold(self, piece: Piece) -> None:
        self._held.append(piece)
        self._n_held += len(piece.text)

    def _release(self, n_characters: int) -> Sequence[Piece]:
        """Take so many characters from the front of the held pieces."""
        self._n_held -= n_characters
        released = []
        while n_characters:
            piece = self._held.popleft()
            if len(piece.text) > n_characters:
                self._held.appendleft(Piece(piece.text[n_characters:], piece.special))
                piece = Piece(piece.text[:n_characters], piece.special)
            n_characters -= len(piece.text)
            released.append(piece)
        return released


class _Match:
    """How much of one stop string the end of the text is. Source: Knuth, Morris, Pratt 1977; linear in the text."""

    def __init__(self, stop: str) -> None:
        self.stop = stop
        self.length = 0  # of the longest end of the text that begins the stop string
        self._shorter = [0]  # for each length matched: the length of the next shorter end that begins the stop string
        for character in stop[1:]:
            self._shorter.append(self._extended(self._shorter[-1], character))

    def push(self, character: str) -> bool:
        """Whether the stop string is complete with this character."""
        self.length = self._extended(self.length, character)
        return self.length == len(self.stop)

    def _extended(self, length: int, character: str) -> int:
        while length and self.stop[length] != character:
            length = self._shorter[length - 1]
        return length + 1 if self.stop[length] == character else 0
