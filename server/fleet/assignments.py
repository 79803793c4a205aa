"""Which job was sent to which device, from when it was taken until it ends, moves between devices included. Event loop only; pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from server.job import Job


@dataclass(slots=True)
class Assignment:
    """A job that was taken and has not ended."""

    job: Job
    need_bytes: int
    device: int
    at: float  # when it came: a job that changes devices keeps its age
    left: int  # outputs still to come
    started_at: float | None = None
    moving_to: int | None = None
    cancel_asked: bool = False

    @property
    def may_move(self) -> bool:
        return self.started_at is None and self.moving_to is None and not self.cancel_asked


class Assignments:
    def __init__(self, n_devices: int) -> None:
        # By device: model → jobs that have not ended.
        self.jobs: list[Counter[str]] = [Counter() for _ in range(n_devices)]
        self._placed: dict[str, Assignment] = {}
        self._moving: set[str] = set()  # jobs recalled and not yet back

    def get(self, job_id: str) -> Assignment | None:
        return self._placed.get(job_id)

    def add(self, placed: Assignment) -> None:
        self._placed[placed.job.id] = placed
        self.jobs[placed.device][placed.job.model] += 1

    def remove(self, job_id: str) -> Assignment | None:
        placed = self._placed.pop(job_id, None)
        self._moving.discard(job_id)
        if placed is not None:
            self._leave(placed)
        return placed

    def started(self, placed: Assignment, at: float) -> None:
        """It stays where it is, also if it was to move."""
        placed.started_at, placed.moving_to = at, None
        self._moving.discard(placed.job.id)

    def move(self, job_id: str, target: int) -> None:
        """It is asked back from its device, for another."""
        self._placed[job_id].moving_to = target
        self._moving.add(job_id)

    def moved(self, job_id: str) -> Assignment:
        placed = self._placed[job_id]
        assert placed.moving_to is not None, "only what was recalled comes back"
        self._moving.discard(job_id)
        self._leave(placed)
        placed.device, placed.moving_to = placed.moving_to, None
        self.jobs[placed.device][placed.job.model] += 1
        return placed

    def coming(self, device: int) -> Counter[str]:
        """What other devices were asked to give back for this one."""
        moving = (self._placed[job_id] for job_id in self._moving)
        return Counter(placed.job.model for placed in moving if placed.moving_to == device)

    def movable(self, job_ids: Iterable[str]) -> list[tuple[str, str]]:
        """(job id, model) of those that another device could take, in the same order."""
        found = ((job_id, self._placed.get(job_id)) for job_id in job_ids)
        return [(job_id, placed.job.model) for job_id, placed in found if placed is not None and placed.may_move]

    def _leave(self, placed: Assignment) -> None:
        jobs = self.jobs[placed.device]
        jobs[placed.job.model] -= 1
        if not jobs[placed.job.model]:
            del jobs[placed.job.model]
