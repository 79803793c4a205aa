"""Chooses how many rows the next forward merges, by the measured seconds of earlier forwards. Device thread only; pure.

The width of a forward is its number of rows, rounded up to a power of two. For small pictures four rows take little
longer than one; for large ones two rows take twice as long. So `BatchSizes` learns per model and shape which width
pays. Widths are tried by doubling. The useful width is the widest that gains `GAIN` per row over the best narrower one;
the next wider one is tried a few times, and again after a while. Disturbances only ever make a forward slower, so a
faster measurement counts for much and a slower one for little.
`StepSizer` takes the useful width and limits it to what is short enough and fits the free memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from statistics import median

from pipelines.interface import IN_TILES, NextStep
from server.memory.activations import Peaks
from server.memory.ledger import Ledger
from server.scheduling.resident import Resident

GAIN = 0.05  # least share of a row's seconds that a wider forward has to save
FASTER_WEIGHT, SLOWER_WEIGHT = 0.5, 0.05  # weight of the newest measurement when it is faster, slower than the average
MEAN_OVER = 100  # measurements in the mean that forecasts use: single ones are disturbed on a busy machine
TRIALS = 4  # measurements of a width before it is judged
RETRY_AFTER = 500  # forwards at a width after which the next wider one is measured anew
# Half-life of the machine's pace, in seconds of forwards: long enough that a burst of requests hardly changes it.
PACE_HALF_LIFE_S = 10.0


@dataclass(slots=True)
class RowSeconds:
    """Seconds per row of a forward at one width."""

    undisturbed_s: float  # near the fastest: decides which width is useful
    mean_s: float  # over the last hundred or so, at the machine's usual pace: what many forwards to come will take
    n: int = 1  # measurements


@dataclass(slots=True)
class BatchSizes:
    _measured: dict[tuple[str, str], dict[int, RowSeconds]] = field(default_factory=dict)  # (model, shape) → by width
    _recent_s: float = 1.0  # seconds of the last forwards of all models, fading
    _recent_usual_s: float = 1.0  # seconds that the same forwards take on average

    def record(self, model: str, shape: str, rows: int, seconds: float) -> None:
        """Learn from a forward of `rows` rows that took `seconds`."""
        widths = self._measured.setdefault((model, shape), {})
        row_s, width = seconds / rows, bucket_of(rows)
        known, usual_s = widths.get(width), row_s / self._pace
        if known is None:
            widths[width] = RowSeconds(row_s, usual_s)
            return
        known.n += 1
        if known.n == 2:  # the first forward also loaded kernels, filled caches and measured memory
            known.undisturbed_s, known.mean_s = row_s, usual_s
            return
        decay = 0.5 ** (seconds / PACE_HALF_LIFE_S)
        self._recent_s = decay * self._recent_s + seconds
        self._recent_usual_s = decay * self._recent_usual_s + known.mean_s * rows
        weight = FASTER_WEIGHT if row_s < known.undisturbed_s else SLOWER_WEIGHT
        known.undisturbed_s += weight * (row_s - known.undisturbed_s)
        known.mean_s += (usual_s - known.mean_s) / min(known.n, MEAN_OVER)
        if known.n % RETRY_AFTER == 0 and 2 * width in widths:
            del widths[2 * width]

    def useful_width(self, model: str, shape: str) -> int:
        """Returns the widest width that pays; if the next wider one has not been measured yet, that one."""
        widths = self._measured.get((model, shape), {})
        if not widths:
            return 1
        useful, best = 0, math.inf
        for width, known in sorted(widths.items()):
            if known.n < TRIALS or known.undisturbed_s < best * (1 - GAIN):
                useful = width
            best = min(best, known.undisturbed_s)
        return useful if 2 * useful in widths else 2 * useful

    def s_per_row(self, model: str, shape: str, rows: int) -> float | None:
        """Returns the undisturbed seconds per row at this width, or at the nearest narrower one that was measured."""
        widths = self._measured.get((model, shape), {})
        narrower = [width for width in widths if width <= bucket_of(rows)]
        if narrower:
            return widths[max(narrower)].undisturbed_s
        return next((known.undisturbed_s for known in widths.values()), None)

    def expected_s_per_row(self, model: str, shape: str, rows: int) -> float | None:
        """Returns the seconds per row while `rows` rows wait, at the useful width and at the machine's present pace.

        A width that was never measured is expected to gain what it gains for other models and shapes, but no more than
        the last doubling of this one did. None: this model and shape never ran.
        """
        usual = self._usual_s_per_row(model, shape, rows)
        return usual and usual * self._pace

    @property
    def _pace(self) -> float:
        """How many times as long as usual forwards take now, over all models."""
        return self._recent_s / self._recent_usual_s

    def _usual_s_per_row(self, model: str, shape: str, rows: int) -> float | None:
        widths = self._measured.get((model, shape))
        if not widths:
            return None
        widest, useful = max(widths), self.useful_width(model, shape)
        if bucket_of(rows) <= widest or useful <= widest:
            narrower = [width for width in widths if width <= bucket_of(min(rows, useful))]
            return widths[max(narrower, default=min(widths))].mean_s
        ratio = self._typical_ratio(widest, bucket_of(rows))
        if (before := widths.get(widest // 2)) is not None:
            doublings = math.log2(bucket_of(rows) / widest)
            ratio = max(ratio, min(1.0, widths[widest].mean_s / before.mean_s) ** doublings)
        return widths[widest].mean_s * ratio

    def _typical_ratio(self, narrow: int, wide: int) -> float:
        """Returns the seconds per row at `wide` over those at `narrow`: the median of all models and shapes.

        The best width above `narrow` that was measured counts, up to `wide`. 1 when nothing was measured at both.
        """
        ratios = [
            min(known.mean_s for width, known in widths.items() if narrow <= width <= wide) / widths[narrow].mean_s
            for widths in self._measured.values()
            if narrow in widths and any(narrow < width <= wide for width in widths)
        ]
        return median(ratios) if ratios else 1.0

    def all(self) -> Iterator[tuple[str, str, int, float]]:
        """Yields (model, shape, rows, seconds of one forward) for every width that was measured."""
        for (model, shape), widths in self._measured.items():
            for width, known in widths.items():
                yield model, shape, width, known.undisturbed_s * width


def bucket_of(rows: int) -> int:
    """Returns the width at which a merged call of `rows` rows runs: 1, 2, 4, 8 …, padded with repeated rows."""
    return 1 << max(0, rows - 1).bit_length()


class StepSizer:
    def __init__(self, ledger: Ledger, peaks: Peaks, batch_sizes: BatchSizes, *, max_step_s: float) -> None:
        """max_step_s: the longest that a merged forward, other than a chat's, should take while other lanes wait."""
        self._ledger = ledger
        self._peaks = peaks
        self._batch_sizes = batch_sizes
        self._max_step_s = max_step_s

    def rows_and_bytes(self, resident: Resident, next_step: NextStep, others_wait: bool) -> tuple[int, int]:
        """Returns the rows of the next step, at least one, and the activation bytes that they will hold."""
        rows = next_step.rows
        if not resident.is_chat:
            shape = f"{next_step.stage} {next_step.shape}"
            if resident.facts.type != "embedding":  # its lane offers as many texts as a forward should have
                rows = max(1, min(rows, self._batch_sizes.useful_width(resident.key, shape)))
            if others_wait:
                rows = self._limit_by_time(resident.key, shape, rows)
        return self._limit_by_memory(resident, next_step, rows)

    def tiled_bytes(self, resident: Resident, next_step: NextStep) -> int | None:
        """Returns the bytes of a decode in tiles, 0 where unknown; None while the whole one may fit the free memory.

        Tiles change pixels, so a prediction that lies beyond what was measured is no reason for them: such a decode is
        tried whole, and in tiles once memory has run out.
        """
        entry = f"{next_step.component}.{next_step.entry}"
        if next_step.entry != "decode" or not self._ledger.has_driver:
            return None
        if self._peaks.at_least(resident.key, entry, next_step.shape, next_step.units) <= self._ledger.free_bytes:
            return None
        return self._peaks.predict(resident.key, entry + IN_TILES, next_step.shape, next_step.units, 1) or 0

    def _limit_by_time(self, key: str, shape: str, rows: int) -> int:
        while rows > 1:
            row_s = self._batch_sizes.s_per_row(key, shape, rows)
            if row_s is None or row_s * rows <= self._max_step_s:
                break
            rows = bucket_of(rows) // 2
        return rows

    def _limit_by_memory(self, resident: Resident, next_step: NextStep, rows: int) -> tuple[int, int]:
        entry = f"{next_step.component}.{next_step.entry}"
        while True:
            need = self._peaks.predict(resident.key, entry, next_step.shape, next_step.units, bucket_of(rows))
            if need is None:  # never measured: on a device that can measure, the first forward runs a single row
                return (1 if self._ledger.has_driver and not resident.is_chat else rows), 0
            if rows == 1 or need <= self._ledger.free_bytes:
                return rows, need
            rows = bucket_of(rows) // 2
