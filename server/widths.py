"""How many rows of one forward are worth merging, per model and shape, from the seconds they took. Pure; device thread only.

At small pictures four rows cost little more than one; at large ones two cost twice as much. Widths are tried by
doubling. The useful one is the widest that gains `GAIN` per row over the best narrower one, and the next is tried a few times, and
again after a while. Disturbances only ever make a forward slower: a quicker one counts for much, a slower one for little.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from statistics import median

GAIN = 0.05
QUICKER, SLOWER = 0.5, 0.05  # weight of the newest measurement, by which side of what was known it is on
LONG = 100  # measurements in the mean that forecasts use: single ones are disturbed on a busy machine
TRIED = 4  # measurements of a width before it is judged
# Of forwards, until those before count half in the machine's pace: a burst of requests holds it up for less.
PACE_S = 10.0
AGAIN_AFTER = 500  # quanta at the useful width until the next one is looked at anew


@dataclass(slots=True)
class Measured:
    row_s: float  # undisturbed: what is useful is judged by it
    mean_s: (
        float  # of a row over the last hundred or so, at the machine's usual pace: what many forwards to come will take
    )
    n: int = 1


@dataclass(slots=True)
class Widths:
    _rows: dict[tuple[str, str], dict[int, Measured]] = field(default_factory=dict)
    _took_s: float = 1.0  # the last forwards of all models
    _usually_s: float = 1.0  # likewise: what they took in the mean

    def note(self, model: str, shape: str, rows: int, seconds: float) -> None:
        widths = self._rows.setdefault((model, shape), {})
        row_s, bucket = seconds / rows, bucket_of(rows)
        known, usual_s = widths.get(bucket), row_s / self._pace
        if known is None:
            widths[bucket] = Measured(row_s, usual_s)
            return
        known.n += 1
        if known.n == 2:  # the first one paid for kernels, caches and the measuring of memory
            known.row_s, known.mean_s = row_s, usual_s
            return
        fading = 0.5 ** (seconds / PACE_S)
        self._took_s = fading * self._took_s + seconds
        self._usually_s = fading * self._usually_s + known.mean_s * rows
        known.row_s += (QUICKER if row_s < known.row_s else SLOWER) * (row_s - known.row_s)
        known.mean_s += (usual_s - known.mean_s) / min(known.n, LONG)
        if known.n % AGAIN_AFTER == 0 and 2 * bucket in widths:
            del widths[2 * bucket]

    def useful(self, model: str, shape: str) -> int:
        """The widest bucket worth running; as wide as may be while nothing speaks against it."""
        widths = self._rows.get((model, shape), {})
        if not widths:
            return 1
        useful, best = 0, math.inf
        for bucket, known in sorted(widths.items()):
            if known.n < TRIED or known.row_s < best * (1 - GAIN):
                useful = bucket
            best = min(best, known.row_s)
        return useful if 2 * useful in widths else 2 * useful

    def row_s(self, model: str, shape: str, rows: int) -> float | None:
        """Seconds of one row when `rows` run together; the nearest narrower width measured stands in."""
        widths = self._rows.get((model, shape), {})
        narrower = [bucket for bucket in widths if bucket <= bucket_of(rows)]
        return widths[max(narrower)].row_s if narrower else next((m.row_s for m in widths.values()), None)

    def expected_row_s(self, model: str, shape: str, rows: int) -> float | None:
        """Seconds of one row once `rows` wait: they will run as wide as is useful, and the machine goes on as it does now.

        A width never tried gains what it gained others, but no more than the one before it.
        """
        usual = self._usual_row_s(model, shape, rows)
        return usual and usual * self._pace

    @property
    def _pace(self) -> float:
        """How many times as long as usual forwards take now, of whatever model."""
        return self._took_s / self._usually_s

    def _usual_row_s(self, model: str, shape: str, rows: int) -> float | None:
        widths = self._rows.get((model, shape))
        if not widths:
            return None
        widest, useful = max(widths), self.useful(model, shape)
        if bucket_of(rows) <= widest or useful <= widest:
            narrower = [bucket for bucket in widths if bucket <= bucket_of(min(rows, useful))]
            return widths[max(narrower, default=min(widths))].mean_s
        gain = self._typical_gain(widest, bucket_of(rows))
        if (before := widths.get(widest // 2)) is not None:  # it gains no more than its last doubling did
            doublings = math.log2(bucket_of(rows) / widest)
            gain = max(gain, min(1.0, widths[widest].mean_s / before.mean_s) ** doublings)
        return widths[widest].mean_s * gain

    def _typical_gain(self, narrow: int, wide: int) -> float:
        """Seconds of a row at `wide` over those at `narrow`, or at the widest that somebody tried."""
        gains = [
            min(its.mean_s for bucket, its in widths.items() if narrow <= bucket <= wide) / widths[narrow].mean_s
            for widths in self._rows.values()
            if narrow in widths and any(narrow < bucket <= wide for bucket in widths)
        ]
        return median(gains) if gains else 1.0

    def all(self) -> Iterator[tuple[str, str, int, float]]:
        """(model, shape, rows, seconds of the forward)"""
        for (model, shape), widths in self._rows.items():
            for bucket, known in widths.items():
                yield model, shape, bucket, known.row_s * bucket


def bucket_of(rows: int) -> int:
    """The width a merged call of so many rows runs at: 1, 2, 4, 8 …, padded with repeats."""
    return 1 << max(0, rows - 1).bit_length()
