"""When a job will be done, from measured times only. Device thread only; pure arithmetic.

A request's device seconds are its shares of the forwards it was in. Of finished requests we keep, per model and shape,
the seconds a denoising step took and the seconds of the rest (text encoding, decoding). A job's remaining work is what
is left of that; lanes take turns, so a running job ends after everybody's work up to its own, and a waiting job after
all that runs and all ahead of it. Never measured: unknown, not guessed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from pipelines.interface import DiffusionRequest, StepCost
from server.jobs import Job

MEMORY = 0.3  # weight of the newest measurement in the running mean: follows a change of load within a few jobs


@dataclass(slots=True)
class Spent:
    """Device seconds one request has used so far."""

    denoising_s: float = 0.0
    rest_s: float = 0.0
    steps: int = 0
    peak_bytes: int | None = None  # most that one of its forwards held beside the weights


@dataclass(frozen=True, slots=True)
class Known:
    step_s: float
    rest_s: float


@dataclass(slots=True)
class Estimates:
    _known: dict[tuple[str, str], Known] = field(default_factory=dict)  # (model, shape) → means
    _load_s: dict[str, float] = field(default_factory=dict)
    _spent: dict[str, Spent] = field(default_factory=dict)  # by request id

    def loaded(self, model: str, seconds: float) -> None:
        self._load_s[model] = seconds

    def note(self, costs: Iterable[StepCost]) -> None:
        for cost in costs:
            for request_id in cost.request_ids:
                spent = self._spent.setdefault(request_id, Spent())
                if cost.stage == "denoising":
                    spent.denoising_s += cost.seconds / cost.rows
                else:
                    spent.rest_s += cost.seconds / cost.rows

    def progressed(self, request_id: str, step: int) -> None:
        self._spent.setdefault(request_id, Spent()).steps = step

    def finished(self, model: str, request: DiffusionRequest) -> None:
        """Learn from a request that ran to its end."""
        spent = self._spent.pop(request.id, None)
        if spent is None or spent.steps == 0:
            return
        new = Known(spent.denoising_s / spent.steps, spent.rest_s)
        old = self._known.get((model, shape_of(request)), new)
        self._known[model, shape_of(request)] = Known(
            step_s=old.step_s + MEMORY * (new.step_s - old.step_s),
            rest_s=old.rest_s + MEMORY * (new.rest_s - old.rest_s),
        )

    def held(self, request_ids: Iterable[str], n_bytes: int | None) -> None:
        """What a forward of these requests held beside the weights; None: not known."""
        for request_id in request_ids if n_bytes is not None else ():
            spent = self._spent.setdefault(request_id, Spent())
            spent.peak_bytes = max(spent.peak_bytes or 0, n_bytes or 0)

    def peak_bytes(self, request_id: str) -> int | None:
        """None when no forward of it was measured."""
        return self._spent.get(request_id, Spent()).peak_bytes

    def forget(self, request_id: str) -> None:
        self._spent.pop(request_id, None)

    def remaining_s(self, job: Job) -> float | None:
        """Device seconds `job` still needs; None when its shape on that model was never run to the end."""
        total = 0.0
        for request in job.requests:
            if not isinstance(request, DiffusionRequest):
                return None
            known = self._known.get((job.model, shape_of(request)))
            if known is None:
                return None
            spent = self._spent.get(request.id, Spent())
            total += known.step_s * max(0, request.steps - spent.steps) + max(0.0, known.rest_s - spent.rest_s)
        return total

    def etas_s(
        self, running: Sequence[Job], waiting: Sequence[Job], resident: frozenset[str]
    ) -> tuple[list[float | None], list[float | None]]:
        """Seconds until done, for the running jobs and for the waiting ones in their order."""
        left = [self.remaining_s(job) for job in running]
        known = [seconds for seconds in left if seconds is not None]
        of_running = [None if mine is None else sum(min(other, mine) for other in known) for mine in left]
        ahead: float | None = sum(known) if len(known) == len(left) else None
        loaded = set(resident)
        of_waiting: list[float | None] = []
        for job in waiting:
            mine = self.remaining_s(job)
            if job.model not in loaded and mine is not None:
                load_s = self._load_s.get(job.model)
                mine = None if load_s is None else mine + load_s
                loaded.add(job.model)
            ahead = None if ahead is None or mine is None else ahead + mine
            of_waiting.append(ahead)
        return of_running, of_waiting


def shape_of(request: DiffusionRequest) -> str:
    return f"{request.width}x{request.height}x{request.num_frames or 1}"
