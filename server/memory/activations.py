"""Learns the peak activation memory of forwards, and predicts it for shapes that never ran. Pure; one owner's thread.

The device thread has one `Peaks` for its steps, the event loop another one for checks before a job is accepted.

For one entry point of a model the peak is close to constant + slope · units · rows. A shape that was measured is
predicted as the largest peak seen. Between measured sizes the prediction is the least-squares line through them; beyond
the largest one, the slope of the part beyond gets a margin. A single measured size is scaled up in proportion, which
over-estimates, and never scaled down. An out-of-memory is a lower bound: such a forward needs more than was free then.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from pipelines.interface import IN_TILES
from server.protocol import Peak

MARGIN = 0.25  # on the part of a prediction that lies beyond all measurements


@dataclass(slots=True)
class Peaks:
    _known: dict[tuple[str, str], dict[tuple[str, int, bool], Peak]] = field(default_factory=dict)  # by (model, entry)
    _max_row_bytes: dict[str, int] = field(default_factory=dict)  # by model
    _new: list[Peak] = field(default_factory=list)  # recorded since the last `take_new`

    def restore(self, peaks: Iterable[Peak]) -> None:
        """Add peaks that an earlier process learned."""
        for peak in peaks:
            self._keep(peak)

    def record(self, peak: Peak) -> None:
        """Learn one measurement or one failure. Of equal shape and rows, the largest figure is kept."""
        known = self._known.setdefault((peak.model, peak.entry), {})
        key = (peak.shape, peak.rows, peak.failed)
        if key not in known or peak.peak_bytes > known[key].peak_bytes:
            self._keep(peak)
            self._new.append(peak)

    def take_new(self) -> list[Peak]:
        """Returns what was recorded since the last call, so that it can be stored."""
        new, self._new = self._new, []
        return new

    def predict(self, model: str, entry: str, shape: str, units: int, rows: int) -> int | None:
        """Returns the bytes that a forward of `rows` rows will hold; None when this entry point was never measured."""
        known = self._known.get((model, entry), {})
        exact = known.get((shape, rows, False))
        size = units * rows
        floor = max((p.peak_bytes + 1 for p in known.values() if p.failed and p.units * p.rows <= size), default=0)
        if exact is not None:
            return max(exact.peak_bytes, floor)
        points = sorted((p.units * p.rows, p.peak_bytes) for p in known.values() if not p.failed)
        if not points:
            return floor or None
        return max(floor, _extrapolate(points, size))

    def lower_bound(self, model: str, shape: str, units: int) -> int:
        """Returns the bytes that a request of this shape is certain to hold at some moment; 0 when nothing is known.

        Only measurements of this shape or of smaller ones count. Decodes do not: done in tiles, they take less.
        """
        bounds = [0]
        for (known_model, entry), known in self._known.items():
            if known_model != model or entry.endswith((".decode", f".decode{IN_TILES}")):
                continue
            single_rows = [p for p in known.values() if p.rows == 1]
            exact = [p.peak_bytes for p in single_rows if p.shape == shape and not p.failed]
            bounds += exact or [p.peak_bytes for p in single_rows if p.units <= units]
        return max(bounds)

    def at_least(self, model: str, entry: str, shape: str, units: int) -> int:
        """Returns the bytes that a forward of one row is certain to hold, by this shape or smaller ones; 0: unknown.

        A shape that has run is judged by its measurement alone: if it also failed once, memory was short for a while.
        """
        known = self._known.get((model, entry), {})
        exact = known.get((shape, 1, False))
        if exact is not None:
            return exact.peak_bytes
        return max((p.peak_bytes + p.failed for p in known.values() if p.units * p.rows <= units), default=0)

    def max_row_bytes(self, model: str) -> int:
        """Returns the largest peak that was measured for a single row of this model; 0 when nothing was measured."""
        return self._max_row_bytes.get(model, 0)

    def _keep(self, peak: Peak) -> None:
        self._known.setdefault((peak.model, peak.entry), {})[peak.shape, peak.rows, peak.failed] = peak
        if peak.rows == 1 and not peak.failed:
            self._max_row_bytes[peak.model] = max(self._max_row_bytes.get(peak.model, 0), peak.peak_bytes)


def _extrapolate(points: list[tuple[int, int]], size: int) -> int:
    """Predicts the bytes at `size` = units · rows. points: (size, measured bytes), sorted by size."""
    largest, largest_bytes = points[-1]
    smallest = points[0][0]
    if largest == smallest:
        return largest_bytes if size <= largest else -(-largest_bytes * size // max(1, largest))
    n = len(points)
    mean_x, mean_y = sum(x for x, _ in points) / n, sum(y for _, y in points) / n
    slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / sum((x - mean_x) ** 2 for x, _ in points)
    slope = max(0.0, slope)
    at_size = mean_y + slope * (size - mean_x)
    beyond = max(0, size - largest)
    largest_smaller = max((y for x, y in points if x <= size), default=0)  # a larger forward never holds less
    return max(largest_smaller, round(at_size + MARGIN * slope * beyond))
