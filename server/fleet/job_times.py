"""Measures how long jobs and loads of each model take, to estimate a device's queue in seconds.

Event loop only. Callers pass the time.
"""

from __future__ import annotations

from collections.abc import Mapping

FADING = 0.9  # weight of the old sums when another job ends: a mean over about the last ten jobs
DEFAULT_S = 1.0  # seconds assumed for a job or a load before anything was measured
MIN_S = 1e-6  # keeps divisions by a job's time finite


class JobTimes:
    def __init__(self, job_s: Mapping[str, float] | None = None, load_s: Mapping[str, float] | None = None) -> None:
        """By model: the seconds a job adds to its device's queue, and the seconds a load takes."""
        self._job_s = dict(job_s or {})
        self._load_s = dict(load_s or {})
        self._sums: dict[str, tuple[float, float]] = {}  # model → (seconds, jobs), both fading
        self._last_end: dict[int, float] = {}  # device → time at which its latest job ended

    def job_s(self, model: str) -> float:
        """Seconds that one job of the model adds to its device's queue."""
        return _estimate(self._job_s, model)

    def load_s(self, model: str) -> float:
        return _estimate(self._load_s, model)

    def queue_s(self, jobs: Mapping[str, int]) -> float:
        """Seconds for a queue. jobs: model → number of jobs."""
        return sum(count * self.job_s(model) for model, count in jobs.items())

    def add_load(self, model: str, seconds: float) -> None:
        """Records a load; 0 seconds means that the model was loaded already and measures nothing."""
        if seconds > 0:
            self._load_s[model] = seconds

    def add_job(self, device: int, model: str, started_at: float, now: float) -> None:
        """Records a job that ended now.

        Counts the time since the job started or, if that is later, since another job of the device ended, so that
        jobs of one batch share the time.
        """
        seconds, count = self._sums.get(model, (0.0, 0.0))
        seconds = FADING * seconds + now - max(started_at, self._last_end.get(device, started_at))
        count = FADING * count + 1
        self._last_end[device] = now
        self._sums[model] = seconds, count
        self._job_s[model] = seconds / count


def _estimate(values: Mapping[str, float], model: str) -> float:
    """The measured value; for a model without one, the mean over the measured models."""
    if model in values:
        return max(values[model], MIN_S)
    return max(sum(values.values()) / len(values), MIN_S) if values else DEFAULT_S
