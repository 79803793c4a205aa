"""The texts of one embedding lane: which of them share the next forward. Device thread only; pure, no torch.

The requests take turns. The request whose turn it is gets its longest texts into the next forward. What room is left
goes to texts of about the same length, its own and other requests', so that little of the forward is padding.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable
from dataclasses import dataclass

from pipelines.embedding_interface import EmbeddingRequest, TextTokens

FINEST_WIDTH = 8  # texts of up to so many tokens are padded to it
STEPS_PER_OCTAVE = 8  # widths between two powers of two: at most an eighth of a row is padding to its own width
LEAST_FILL = 0.75  # a text joins a forward that is wider than its own width only if it fills so much of it


def padded_width(n_tokens: int) -> int:
    """Returns the width that a text of so many tokens is padded to at least: few widths, so that each is measured."""
    step = max(FINEST_WIDTH, (1 << (n_tokens - 1).bit_length()) // (2 * STEPS_PER_OCTAVE))
    return -(-n_tokens // step) * step


def shape_of_width(width: int) -> str:
    """Returns the name under which forwards of a width are measured."""
    return f"{width} tokens"


@dataclass(frozen=True, slots=True)
class Row:
    """One text in a forward."""

    request_id: str
    index: int  # among the request's texts
    text: TextTokens


@dataclass(frozen=True, slots=True)
class Rows:
    """The texts of one forward."""

    width: int  # tokens that each is padded to
    rows: tuple[Row, ...]


@dataclass(slots=True)
class _Waiting:
    """The texts of a request that still have to run."""

    texts: dict[int, TextTokens]  # by index
    left: list[tuple[int, int]]  # (width, index), the widest last


class EmbeddingQueue:
    def __init__(self) -> None:
        self._waiting: dict[str, _Waiting] = {}  # by request id; the next turn stands first

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._waiting

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, request: EmbeddingRequest) -> None:
        texts = dict(enumerate(request.texts))
        left = sorted((padded_width(len(text.tokens)), index) for index, text in texts.items())
        self._waiting[request.id] = _Waiting(texts, left)

    def remove(self, request_id: str) -> None:
        self._waiting.pop(request_id, None)

    def peek(self, max_tokens: int, max_rows: int | None = None) -> Rows | None:
        """Returns the texts of the next forward: at least one, and together at most `max_tokens` with their padding.

        None when no text waits.
        """
        if not self._waiting:
            return None
        width, _ = next(iter(self._waiting.values())).left[-1]
        n_rows = max(1, max_tokens // width)
        if max_rows is not None:
            n_rows = min(n_rows, max_rows)
        rows: list[Row] = []
        for request_id, waiting in self._waiting.items():
            end = bisect_left(waiting.left, (width + 1, -1))
            begin = max(bisect_left(waiting.left, (int(width * LEAST_FILL), -1)), end - (n_rows - len(rows)))
            rows += (Row(request_id, index, waiting.texts[index]) for _, index in reversed(waiting.left[begin:end]))
            if len(rows) == n_rows:
                break
        return Rows(width, tuple(rows))

    def take(self, max_tokens: int, max_rows: int | None = None) -> Rows:
        """Removes and returns what `peek` returns; the request whose turn it was is the last now. Needs a text."""
        rows = self.peek(max_tokens, max_rows)
        assert rows is not None
        first = next(iter(self._waiting))
        for row in rows.rows:
            left = self._waiting[row.request_id].left
            del left[bisect_left(left, (padded_width(len(row.text.tokens)), row.index))]
        turn = self._waiting.pop(first)
        self._waiting = {name: waiting for name, waiting in self._waiting.items() if waiting.left}
        if turn.left:
            self._waiting[first] = turn
        return rows

    def put_back(self, rows: Iterable[Row]) -> None:
        """Makes texts that were taken wait again, before all others."""
        returned: dict[str, _Waiting] = {}
        for row in rows:
            if row.request_id not in returned:
                returned[row.request_id] = self._waiting.pop(row.request_id, _Waiting({}, []))
            waiting = returned[row.request_id]
            waiting.texts[row.index] = row.text
            insort(waiting.left, (padded_width(len(row.text.tokens)), row.index))
        self._waiting = {**returned, **self._waiting}
