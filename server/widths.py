"""How many rows of one forward are worth merging, per model and shape, from the seconds they took. Pure; device thread only.

At small pictures four rows cost little more than one; at large ones two cost twice as much. Widths are tried by
doubling; one that gains less than `GAIN` per row over the best narrower one ends it, and is tried again after a while.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

GAIN = 0.05
MEMORY = 0.3  # weight of the newest measurement: a disturbed one is outlived in a few
TRIED = 3  # measurements of a width before it is judged
AGAIN_AFTER = 500  # quanta at the useful width until the next one is looked at anew


@dataclass(slots=True)
class Measured:
    row_s: float
    n: int = 1


@dataclass(slots=True)
class Widths:
    _rows: dict[tuple[str, str], dict[int, Measured]] = field(default_factory=dict)

    def note(self, model: str, shape: str, rows: int, seconds: float) -> None:
        widths = self._rows.setdefault((model, shape), {})
        row_s, bucket = seconds / rows, bucket_of(rows)
        known = widths.get(bucket)
        if known is None:
            widths[bucket] = Measured(row_s)
            return
        known.row_s += MEMORY * (row_s - known.row_s)
        known.n += 1
        if known.n % AGAIN_AFTER == 0 and 2 * bucket in widths:
            del widths[2 * bucket]

    def useful(self, model: str, shape: str) -> int:
        """The widest bucket worth running; as wide as may be while nothing speaks against it."""
        widths = self._rows.get((model, shape), {})
        best: float | None = None
        useful = 1
        for bucket in sorted(widths):
            known = widths[bucket]
            if best is not None and known.n >= TRIED and known.row_s > best * (1 - GAIN):
                return useful
            best = known.row_s if best is None else min(best, known.row_s)
            useful = bucket
        return 2 * useful if widths else 1

    def row_s(self, model: str, shape: str, rows: int) -> float | None:
        """Seconds of one row when `rows` run together; the nearest narrower width measured stands in."""
        widths = self._rows.get((model, shape), {})
        narrower = [bucket for bucket in widths if bucket <= bucket_of(rows)]
        return widths[max(narrower)].row_s if narrower else next((m.row_s for m in widths.values()), None)

    def all(self) -> Iterator[tuple[str, str, int, float]]:
        """(model, shape, rows, seconds of the forward)"""
        for (model, shape), widths in self._rows.items():
            for bucket, known in widths.items():
                yield model, shape, bucket, known.row_s * bucket


def bucket_of(rows: int) -> int:
    """The width a merged call of so many rows runs at: 1, 2, 4, 8 …, padded with repeats."""
    return 1 << max(0, rows - 1).bit_length()
