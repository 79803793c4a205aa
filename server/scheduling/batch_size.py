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

from pipelines.interface import NextStep
from server.memory.activations import Peaks
from server.memory.ledger import Ledger
from server.scheduling.resident import Resident

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
class BatchSizes:
    _rows: dict[tuple[str, str], dict[int, Measured]] = field(default_factory=dict)
    _took_s: float = 1.0  # the last forwards of all models
    _usually_s: float = 1.0  # likewise: what they took in the mean

    def note(self, model: str, shape: str, rows: int, seconds: float) -> None:
        batch_sizes = self._rows.setdefault((model, shape), {})
        row_s, bucket = seconds / rows, bucket_of(rows)
        known, usual_s = batch_sizes.get(bucket), row_s / self._pace
        if known is None:
            batch_sizes[bucket] = Measured(row_s, usual_s)
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
        if known.n % AGAIN_AFTER == 0 and 2 * bucket in batch_sizes:
            del batch_sizes[2 * bucket]

    def useful(self, model: str, shape: str) -> int:
        """The widest bucket worth running; as wide as may be while nothing speaks against it."""
        batch_sizes = self._rows.get((model, shape), {})
        if not batch_sizes:
            return 1
        useful, best = 0, math.inf
        for bucket, known in sorted(batch_sizes.items()):
            if known.n < TRIED or known.row_s < best * (1 - GAIN):
                useful = bucket
            best = min(best, known.row_s)
        return useful if 2 * useful in batch_sizes else 2 * useful

    def row_s(self, model: str, shape: str, rows: int) -> float | None:
        """Seconds of one row when `rows` run together; the nearest narrower width measured stands in."""
        batch_sizes = self._rows.get((model, shape), {})
        narrower = [bucket for bucket in batch_sizes if bucket <= bucket_of(rows)]
        return batch_sizes[max(narrower)].row_s if narrower else next((m.row_s for m in batch_sizes.values()), None)

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
        batch_sizes = self._rows.get((model, shape))
        if not batch_sizes:
            return None
        widest, useful = max(batch_sizes), self.useful(model, shape)
        if bucket_of(rows) <= widest or useful <= widest:
            narrower = [bucket for bucket in batch_sizes if bucket <= bucket_of(min(rows, useful))]
            return batch_sizes[max(narrower, default=min(batch_sizes))].mean_s
        gain = self._typical_gain(widest, bucket_of(rows))
        if (before := batch_sizes.get(widest // 2)) is not None:  # it gains no more than its last doubling did
            doublings = math.log2(bucket_of(rows) / widest)
            gain = max(gain, min(1.0, batch_sizes[widest].mean_s / before.mean_s) ** doublings)
        return batch_sizes[widest].mean_s * gain

    def _typical_gain(self, narrow: int, wide: int) -> float:
        """Seconds of a row at `wide` over those at `narrow`, or at the widest that somebody tried."""
        gains = [
            min(its.mean_s for bucket, its in batch_sizes.items() if narrow <= bucket <= wide)
            / batch_sizes[narrow].mean_s
            for batch_sizes in self._rows.values()
            if narrow in batch_sizes and any(narrow < bucket <= wide for bucket in batch_sizes)
        ]
        return median(gains) if gains else 1.0

    def all(self) -> Iterator[tuple[str, str, int, float]]:
        """(model, shape, rows, seconds of the forward)"""
        for (model, shape), batch_sizes in self._rows.items():
            for bucket, known in batch_sizes.items():
                yield model, shape, bucket, known.row_s * bucket


def bucket_of(rows: int) -> int:
    """The width a merged call of so many rows runs at: 1, 2, 4, 8 …, padded with repeats."""
    return 1 << max(0, rows - 1).bit_length()


class StepSizer:
    def __init__(self, ledger: Ledger, peaks: Peaks, batch_sizes: BatchSizes, *, max_step_s: float) -> None:
        """`max_step_s`: most that a merged call of pictures or clips should take while others wait."""
        self._ledger = ledger
        self._peaks = peaks
        self._batch_sizes = batch_sizes
        self._max_step_s = max_step_s

    def rows_and_bytes(self, resident: Resident, next_step: NextStep, others_wait: bool) -> tuple[int, int]:
        """Rows of the step, at least one, and the bytes they will hold."""
        rows = next_step.rows
        if not resident.is_chat:
            shape = f"{next_step.stage} {next_step.shape}"
            rows = max(1, min(rows, self._batch_sizes.useful(resident.key, shape)))
            if others_wait:
                rows = self._in_time(resident.key, shape, rows)
        return self._that_fits(resident, next_step, rows)

    def _in_time(self, key: str, shape: str, rows: int) -> int:
        """The most rows whose call is expected to end within the bound."""
        while rows > 1:
            row_s = self._batch_sizes.row_s(key, shape, rows)
            if row_s is None or row_s * rows <= self._max_step_s:
                break
            rows = bucket_of(rows) // 2
        return rows

    def _that_fits(self, resident: Resident, next_step: NextStep, rows: int) -> tuple[int, int]:
        entry = f"{next_step.component}.{next_step.entry}"
        while True:
            need = self._peaks.predict(resident.key, entry, next_step.shape, next_step.units, bucket_of(rows))
            if need is None:  # never measured: where it can be, a single row tells
                return (1 if self._ledger.has_driver and not resident.is_chat else rows), 0
            if rows == 1 or need <= self._ledger.free_bytes:
                return rows, need
            rows = bucket_of(rows) // 2
