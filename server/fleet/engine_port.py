"""The interface through which the event loop talks to devices: an engine, a fleet of engines, or the tests' fake.

Event loop only. Calls return at once; their effects are reported by events (`server/protocol.py`).
"""

from __future__ import annotations

from typing import Protocol

from server.job import Job
from server.protocol import Cancel, ModelMessage, Recall


class Engine(Protocol):
    draining: bool  # whether `drain` was called

    @property
    def not_ready_reason(self) -> str | None:
        """Why no work is accepted now; None when work is accepted."""

    @property
    def alive(self) -> bool:
        """False once a device thread has ended or is stuck in one action."""

    @property
    def stuck_in(self) -> str | None:
        """The action that a device thread has been in for longer than its limit. Only a new process helps."""

    @property
    def usable_bytes(self) -> int:
        """Bytes that one job could have on the (largest) device if the device held nothing else."""

    def start(self) -> None:
        """Starts the device threads; events are delivered on the running event loop."""

    def check_fits(self, model: str, need_bytes: int) -> None:
        """Raises `NeverFits` for a model larger than every device it may use.

        Raises `Conflict` when pinned models hold too much memory.
        """

    def submit(self, job: Job, need_bytes: int = 0, at: float | None = None) -> None:
        """Queues a job. Raises `Unavailable` when no work is accepted, `NeverFits` when `need_bytes` exceeds a device.

        at: when the job was accepted, on the engine's clock; None: now.
        """

    def send(self, message: Cancel | Recall | ModelMessage) -> None:
        """Sends a message to the devices; unknown jobs and models are ignored."""

    async def drain(self, timeout_s: float) -> None:
        """Stops starting jobs, lets running ones finish for at most `timeout_s`, then ends the device threads."""
