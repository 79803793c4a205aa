"""How long jobs and loads take, by model, as measured: what a device's queue is worth in seconds. Event loop only; pure."""

from __future__ import annotations

from collections.abc import Mapping

FADING = 0.9  # weight of what was known when another job ends: a mean over about the last ten
UNKNOWN_S = 1.0  # of a job or a load while nothing at all was measured
LEAST_S = 1e-6


class JobTimes:
    def __init__(self, job_s: Mapping[str, float] | None = None, load_s: Mapping[str, float] | None = None) -> None:
        """By model: seconds a job adds to its device's queue, seconds to load it."""
        self._job_s = dict(job_s or {})
        self._load_s = dict(load_s or {})
        self._sums: dict[str, tuple[float, float]] = {}  # model → (seconds, jobs), both fading
        self._last_end: dict[int, float] = {}  # by device

    def of_job(self, model: str) -> float:
        return _known(self._job_s, model)

    def of_load(self, model: str) -> float:
        return _known(self._load_s, model)

    def of_jobs(self, jobs: Mapping[str, int]) -> float:
        """Seconds for so many jobs of each model."""
        return sum(count * self.of_job(model) for model, count in jobs.items())

    def loaded(self, model: str, seconds: float) -> None:
        if seconds > 0:
            self._load_s[model] = seconds

    def ended(self, device: int, model: str, started_at: float, now: float) -> None:
        """The device worked on it since it started or, if that is later, since another job ended: merged jobs share the time."""
        seconds, count = self._sums.get(model, (0.0, 0.0))
        seconds = FADING * seconds + now - max(started_at, self._last_end.get(device, started_at))
        count = FADING * count + 1
        self._last_end[device] = now
        self._sums[model] = seconds, count
        self._job_s[model] = seconds / count


def _known(values: Mapping[str, float], model: str) -> float:
    """A model never measured counts as the mean of those that were."""
    if model in values:
        return max(values[model], LEAST_S)
    return max(sum(values.values()) / len(values), LEAST_S) if values else UNKNOWN_S
