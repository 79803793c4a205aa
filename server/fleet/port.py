"""The one interface through which the event loop talks to devices: an engine, a fleet of engines, or a fake of the tests.

Event loop only. Calls return at once; what becomes of them is reported by events (`server/protocol.py`).
"""

from __future__ import annotations

from typing import Protocol

from server.job import Job
from server.protocol import Cancel, ModelMessage, Recall


class Engine(Protocol):
    draining: bool

    @property
    def not_ready_reason(self) -> str | None:
        """Why no work is taken now; None when work is taken."""

    @property
    def alive(self) -> bool:
        """False once a device thread has ended or is stuck in one action."""

    @property
    def stuck(self) -> bool:
        """Whether a device thread has been in one action for longer than its limit. Only the end of the process ends that."""

    @property
    def usable_bytes(self) -> int:
        """Bytes that one job could have on the (largest) device if nothing else were on it."""

    def start(self) -> None:
        """Start the device threads; events are delivered on the running event loop."""

    def check_fits(self, model: str, need_bytes: int) -> None:
        """Raises `NeverFits` when the model is larger than every device it may use; `Conflict` when pinned models hold the room."""

    def submit(self, job: Job, need_bytes: int = 0, at: float | None = None) -> None:
        """Queue a job. Raises `Unavailable` when no work is taken, `NeverFits` when `need_bytes` is more than a device has.

        at: when the job was accepted, on the engine's clock; None: now.
        """

    def send(self, message: Cancel | Recall | ModelMessage) -> None:
        """Hand over a message; unknown jobs and models are ignored."""

    async def drain(self, timeout_s: float) -> None:
        """Take and start no more jobs, let running ones finish for at most `timeout_s`, then end the device threads."""
