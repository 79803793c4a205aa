"""What a quantum holds beside the weights: learned from the allocator's peaks, predicted for what was never run. Pure; device thread only.

Of one model's entry point the peak is close to constant + slope · units · rows. Measured exactly: the largest seen. Between
what was measured: the line through it. Beyond: the line with a margin on the part beyond. From one size only: in proportion,
which over-estimates, and never less than measured for what is smaller. An out-of-memory is a bound from below: it takes more than was free then.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from server.protocol import Peak

MARGIN = 0.25  # on the part of a prediction that lies beyond all measurements


@dataclass(slots=True)
class Peaks:
    _known: dict[tuple[str, str], dict[tuple[str, int, bool], Peak]] = field(default_factory=dict)
    _one_row: dict[str, int] = field(default_factory=dict)  # model → the most that a single row was seen to hold
    _news: list[Peak] = field(default_factory=list)  # learned since they were last taken

    def restore(self, peaks: Iterable[Peak]) -> None:
        """Take in what an earlier run learned."""
        for peak in peaks:
            self._keep(peak)

    def note(self, peak: Peak) -> None:
        """Learn one measurement, or one failure; the larger stays."""
        known = self._known.setdefault((peak.model, peak.entry), {})
        key = (peak.shape, peak.rows, peak.failed)
        if key not in known or peak.peak_bytes > known[key].peak_bytes:
            self._keep(peak)
            self._news.append(peak)

    def take_news(self) -> list[Peak]:
        """What was learned since the last call, to be kept."""
        news, self._news = self._news, []
        return news

    def predict(self, model: str, entry: str, shape: str, units: int, rows: int) -> int | None:
        """Bytes `rows` of that shape will hold; None when nothing of this entry point was measured."""
        known = self._known.get((model, entry), {})
        exact = known.get((shape, rows, False))
        size = units * rows
        floor = max((p.peak_bytes + 1 for p in known.values() if p.failed and p.units * p.rows <= size), default=0)
        if exact is not None:
            return max(exact.peak_bytes, floor)
        points = sorted((p.units * p.rows, p.peak_bytes) for p in known.values() if not p.failed)
        if not points:
            return floor or None
        return max(floor, _on_line(points, size))

    def at_least(self, model: str, shape: str, units: int) -> int:
        """What a request of this shape holds at some moment for sure: as measured, of it or of a smaller one; 0 when nothing is known.

        Nothing is guessed beyond what was measured, and decodes are left out: in tiles they take less.
        """
        found = [0]
        for (its, entry), known in self._known.items():
            if its != model or entry.endswith(".decode"):
                continue
            alone = [p for p in known.values() if p.rows == 1]
            exact = [p.peak_bytes for p in alone if p.shape == shape and not p.failed]
            found += exact or [p.peak_bytes for p in alone if p.units <= units]
        return max(found)

    def one_row(self, model: str) -> int:
        """The most that a single row of this model was seen to hold; 0 when nothing is known."""
        return self._one_row.get(model, 0)

    def _keep(self, peak: Peak) -> None:
        self._known.setdefault((peak.model, peak.entry), {})[peak.shape, peak.rows, peak.failed] = peak
        if peak.rows == 1 and not peak.failed:
            self._one_row[peak.model] = max(self._one_row.get(peak.model, 0), peak.peak_bytes)


def _on_line(points: list[tuple[int, int]], size: int) -> int:
    largest, its_bytes = points[-1]
    smallest = points[0][0]
    if largest == smallest:
        return its_bytes if size <= largest else -(-its_bytes * size // max(1, largest))
    n = len(points)
    mean_x, mean_y = sum(x for x, _ in points) / n, sum(y for _, y in points) / n
    slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / sum((x - mean_x) ** 2 for x, _ in points)
    slope = max(0.0, slope)
    at_size = mean_y + slope * (size - mean_x)
    beyond = max(0, size - largest)
    smaller = max((y for x, y in points if x <= size), default=0)  # more rows never hold less
    return max(smaller, round(at_size + MARGIN * slope * beyond))
