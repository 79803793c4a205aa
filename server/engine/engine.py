"""Runs one device on a thread of its own: takes messages, decides and carries out actions, and sends events.

This is the only bridge between the event loop and the models. Messages arrive through the inbox; events leave through
the outbox. The device thread asks the scheduler for the next action and has the executor carry it out. Only this thread
touches models, so no model needs a lock.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable

from pipelines.fault_points import reach
from server.engine.doing import Doing
from server.engine.executor import Executor
from server.engine.model_loader import Device
from server.engine.outbox import Outbox
from server.engine.snapshot import SnapshotPublisher
from server.errors import NeverFits, Unavailable
from server.job import UNSTORED, Job
from server.marks import Mark
from server.protocol import (
    Cancel,
    Drain,
    Event,
    JobFailed,
    Message,
    ModelMessage,
    PeaksLearned,
    Recall,
    Stop,
    Submit,
)
from server.scheduling.actions import Load, Wait
from server.scheduling.scheduler import Scheduler
from server.units import size

logger = logging.getLogger(__name__)


class Engine:
    """The engine of one device. `server.fleet.engine_port.Engine` documents the calls that the event loop makes."""

    def __init__(
        self,
        scheduler: Scheduler,
        device: Device,
        deliver: Callable[[Event], None],
        *,
        step_timeout_s: float = 120.0,
        clock: Callable[[], float] = time.monotonic,
        mark: Mark | None = None,
    ) -> None:
        """deliver: called with each event, in order, on the event loop on which `start` was called.

        step_timeout_s: after it, an action other than a load is stuck. mark: tells the next process what this one did.
        """
        self._scheduler = scheduler
        self._device = device
        self._clock = clock
        self._inbox: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._outbox = Outbox(deliver, clock)
        self._doing = Doing(step_timeout_s, clock, mark)
        self._executor = Executor(scheduler, device, self._inbox, self._outbox, self._doing, clock=clock)
        self._snapshots = SnapshotPublisher(
            scheduler, self._executor.jobs, self._executor.estimates, self._executor.lanes, clock
        )
        self._thread = threading.Thread(target=self._run, name="device", daemon=True)
        self._turn_ended_at: float | None = None  # None: the thread has waited for a message since then
        self._capacity_bytes = scheduler.ledger.usable_bytes
        # Written by one thread and read by the other; each is a single reference that is replaced as a whole.
        self.draining = False
        self._not_ready_reason: str | None = "the engine is starting"

    # Called on the event loop

    def start(self) -> None:
        self._outbox.bind(asyncio.get_running_loop())
        self._not_ready_reason = None
        self._thread.start()

    @property
    def not_ready_reason(self) -> str | None:
        stuck_in = self.stuck_in
        return self._not_ready_reason if stuck_in is None else f"the engine is stuck in {stuck_in}"

    @property
    def alive(self) -> bool:
        return self._thread.is_alive() and self.stuck_in is None

    @property
    def stuck_in(self) -> str | None:
        return self._doing.overdue if self._thread.is_alive() else None

    @property
    def usable_bytes(self) -> int:
        return self._capacity_bytes

    def check_fits(self, model: str, need_bytes: int) -> None:
        if need_bytes > self._capacity_bytes:
            raise NeverFits(
                f"{model} needs {size(need_bytes)}, this device has {size(self._capacity_bytes)} for models."
            )

    def submit(self, job: Job, need_bytes: int = 0, at: float | None = None) -> None:
        if (reason := self.not_ready_reason) is not None:
            raise Unavailable(f"Not accepting jobs: {reason}.", retry_after_s=5)
        self.check_fits(job.model, need_bytes)
        self._inbox.put(Submit(job, self._clock() if at is None else at))

    def send(self, message: Cancel | Recall | ModelMessage) -> None:
        self._inbox.put(message)

    async def drain(self, timeout_s: float) -> None:
        self.draining = True
        self._not_ready_reason = "the server is shutting down"
        self._inbox.put(Drain())
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, self._thread.join, timeout_s)
        self._inbox.put(Stop())
        await loop.run_in_executor(None, self._thread.join, 2.0)

    # The device thread

    def _run(self) -> None:
        try:
            self._doing.begin("start")
            reach("start")
            self._device.warm_up()
            while self._handle_messages(block=False) and self._turn():
                pass
            self._doing.end()  # after an error the next process reads what the thread did
        except BaseException as error:
            self._not_ready_reason = "the engine stopped on an error"
            logger.exception("engine stopped")
            if self._device.is_fatal(error):
                self._device.die()
            # Image and video jobs are stored and run again in the next process. The others fail.
            waiting = [entry.job for entry in self._scheduler.queue.in_order()]
            for job in (*self._executor.jobs.all(), *waiting):
                if job.type in UNSTORED:
                    self._outbox.put(
                        JobFailed(job.id, "engine_stopped", "The engine stopped while this job ran.", True)
                    )
        finally:
            self._outbox.flush(force=True)

    def _turn(self) -> bool:
        """Decide on one action and carry it out. False when the engine has drained."""
        began = self._clock() if self._turn_ended_at is None else self._turn_ended_at
        self._doing.begin("decide")
        self._scheduler.observe(self._device.read_memory())
        self._executor.look_for_inputs()
        action = self._scheduler.next_action(self._clock())
        if isinstance(action, Wait):
            self._publish(force=True)
            self._turn_ended_at = None
            if self._scheduler.draining and not len(self._executor.jobs):
                return False
            return self._handle_messages(block=True, until=action.until)
        if isinstance(action, Load):
            self._scheduler.load_started(action.model)
            self._publish(force=True)  # a load takes long; publishing first shows it from its beginning
        self._executor.carry_out(action)
        self._doing.begin("publish")
        self._publish()
        self._turn_ended_at = self._clock()
        self._executor.turn_ended(action, self._turn_ended_at - began)
        return True

    def _handle_messages(self, *, block: bool, until: float | None = None) -> bool:
        """Handle all messages in the inbox. False on `Stop`.

        block: when the inbox is empty, wait for a message until the moment `until`; None: without a limit.
        """
        timeout = None if until is None else max(0.0, until - self._clock())
        while True:
            if block:
                self._doing.end()
            try:
                message = self._inbox.get(block, timeout)
            except queue.Empty:
                return True
            block, timeout = False, None
            if isinstance(message, Stop):
                return False
            self._executor.handle(message)

    def _publish(self, *, force: bool = False) -> None:
        self._outbox.flush(force=force)  # so that a token does not wait until the snapshot is made
        status = self._snapshots.due(self._clock(), force)
        if status is not None:
            self._outbox.put(status)
        if new_peaks := self._scheduler.peaks.take_new():
            self._outbox.put(PeaksLearned(tuple(new_peaks)))
        self._outbox.flush(force=force)
