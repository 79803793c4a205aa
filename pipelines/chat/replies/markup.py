"""Finds markup in text that arrives in pieces, without losing which pieces are special tokens. Any thread; no torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pipelines.chat.replies.detokenize import Piece

# Only these surround tags. Wider spaces, such as the one that indents Chinese text, belong to what a model says.
WHITE = " \t\r\n"


def text_of(pieces: Iterable[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


def split_pieces(pieces: Sequence[Piece], n_characters: int) -> tuple[list[Piece], list[Piece]]:
    """Return the pieces of the first `n_characters`, and the pieces of the rest."""
    head: list[Piece] = []
    for index, piece in enumerate(pieces):
        if n_characters < len(piece.text):
            cut = [Piece(piece.text[:n_characters], piece.special)] if n_characters else []
            return head + cut, [Piece(piece.text[n_characters:], piece.special), *pieces[index + 1 :]]
        head.append(piece)
        n_characters -= len(piece.text)
    return head, []


def n_partial(text: str, marker: str) -> int:
    """The length of the longest end of `text` that is a beginning of `marker`, but not all of it."""
    for length in range(min(len(text), len(marker) - 1), 0, -1):
        if text.endswith(marker[:length]):
            return length
    return 0


def find_first(text: str, markers: Iterable[str]) -> tuple[int, str] | None:
    """Return where the first marker in `text` begins, and which it is. No marker may be a part of another."""
    found = [(start, marker) for marker in markers if (start := text.find(marker)) >= 0]
    return min(found, default=None)
