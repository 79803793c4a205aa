"""Records which device each unfinished job is assigned to, including moves between devices. Event loop only; no I/O."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from server.job import Job


@dataclass(slots=True)
class Assignment:
    """A submitted job that has not ended, and the device it was submitted to."""

    job: Job
    need_bytes: int
    device: int
    submitted_at: float  # seconds on the fleet's clock; a job that moves to another device keeps this time
    outputs_left: int  # outputs that are not ready yet
    started_at: float | None = None
    move_target: int | None = None  # the device the job is being moved to; None: no move is in progress
    cancel_requested: bool = False

    @property
    def movable(self) -> bool:
        return self.started_at is None and self.move_target is None and not self.cancel_requested


class Assignments:
    def __init__(self, n_devices: int) -> None:
        # Per device: model → number of unfinished jobs.
        self.job_counts: list[Counter[str]] = [Counter() for _ in range(n_devices)]
        self._assignments: dict[str, Assignment] = {}  # by job id
        self._moving: set[str] = set()  # ids of jobs that were recalled and have not been returned yet

    def get(self, job_id: str) -> Assignment | None:
        return self._assignments.get(job_id)

    def add(self, assignment: Assignment) -> None:
        self._assignments[assignment.job.id] = assignment
        self.job_counts[assignment.device][assignment.job.model] += 1

    def remove(self, job_id: str) -> Assignment | None:
        """Removes a job that has ended; returns its assignment, None for an unknown job."""
        assignment = self._assignments.pop(job_id, None)
        self._moving.discard(job_id)
        if assignment is not None:
            self._decrement(assignment)
        return assignment

    def start(self, assignment: Assignment, at: float) -> None:
        """Marks the job as started. This ends a move in progress: a started job stays on its device."""
        assignment.started_at, assignment.move_target = at, None
        self._moving.discard(assignment.job.id)

    def begin_move(self, job_id: str, target: int) -> None:
        """Marks the job as recalled from its device, to be submitted to the device `target`."""
        self._assignments[job_id].move_target = target
        self._moving.add(job_id)

    def finish_move(self, job_id: str) -> Assignment:
        """Assigns a recalled job, which its device has returned, to the target of its move."""
        assignment = self._assignments[job_id]
        assert assignment.move_target is not None, "begin_move() comes first"
        self._moving.discard(job_id)
        self._decrement(assignment)
        assignment.device, assignment.move_target = assignment.move_target, None
        self.job_counts[assignment.device][assignment.job.model] += 1
        return assignment

    def incoming(self, device: int) -> Counter[str]:
        """Model → number of jobs that are being moved to this device."""
        moving = (self._assignments[job_id] for job_id in self._moving)
        return Counter(assignment.job.model for assignment in moving if assignment.move_target == device)

    def movable(self, job_ids: Iterable[str]) -> list[tuple[str, str]]:
        """(job id, model) of those jobs that may move to another device, in the given order."""
        found = [self._assignments[job_id] for job_id in job_ids if job_id in self._assignments]
        return [(assignment.job.id, assignment.job.model) for assignment in found if assignment.movable]

    def _decrement(self, assignment: Assignment) -> None:
        counts = self.job_counts[assignment.device]
        counts[assignment.job.model] -= 1
        if not counts[assignment.job.model]:
            del counts[assignment.job.model]
