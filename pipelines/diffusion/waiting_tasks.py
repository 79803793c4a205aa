"""The tasks of a lane that have not started: those whose inputs are still being read, and those that can start.

Device thread only.
"""

from __future__ import annotations

from collections.abc import Callable

from pipelines.batching.task import Task
from pipelines.diffusion.inputs.reader import MediaReader


class WaitingTasks:
    def __init__(self) -> None:
        self.reader = MediaReader()
        self.ready: list[Task] = []
        self._reading: dict[str, Task] = {}  # by id of the request

    def add(self, task: Task, *, is_read: bool) -> None:
        """is_read: the reader reads for it first."""
        if is_read:
            self._reading[task.name] = task
        else:
            self.ready.append(task)

    def remove(self, request_id: str) -> None:
        self.ready = [task for task in self.ready if task.name != request_id]
        self._reading.pop(request_id, None)
        self.reader.cancel(request_id)

    def collect(self) -> None:
        """Make those ready whose inputs have been read."""
        self.ready += [self._reading.pop(name) for name in self.reader.take_read()]

    def take(self) -> list[Task]:
        """Return those that can start, which are no longer waiting."""
        taken, self.ready = self.ready, []
        return taken

    @property
    def only_reads(self) -> bool:
        """Whether none can start before a file has been read."""
        return bool(self._reading) and not self.ready and not self.reader.has_read

    def wait(self, should_yield: Callable[[], bool]) -> None:
        """Let a moment pass until one of them can start."""
        self.reader.wait(should_yield)

    def close(self) -> None:
        self.reader.close()
