"""The device thread, its inbox and its events: the only bridge between the event loop and the models.

In by message (`inbox.put`), out by `loop.call_soon_threadsafe`. The thread asks the scheduler what is next and has it
done (`carrier.py`). It alone touches models, so nothing here needs a lock.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable
from typing import assert_never

from server.engine.executor import Executor
from server.engine.model_loader import Device
from server.errors import NeverFits, Unavailable
from server.job import Job
from server.protocol import (
    Cancel,
    Drain,
    Event,
    Forget,
    JobFailed,
    JobProgressed,
    KeepAlive,
    LoadModel,
    Message,
    PeaksLearned,
    Pin,
    Recall,
    Stop,
    Submit,
    UnloadModel,
    WasRead,
)
from server.scheduling.scheduler import Scheduler, Wait

__all__ = ["POISONED", "Device", "Engine"]

logger = logging.getLogger(__name__)

POISONED = 86  # exit code of a process whose device cannot be used again; the supervisor starts it anew
PROGRESS_INTERVAL_S = 0.1


class Engine:
    def __init__(
        self,
        scheduler: Scheduler,
        device: Device,
        deliver: Callable[[Event], None],
        *,
        step_timeout_s: float = 120.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`deliver` is called on the event loop that runs at `start`, in the order of events."""
        self._scheduler = scheduler
        self._device = device
        self._deliver = deliver
        self._clock = clock
        self._inbox: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="device", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._outbox: list[Event] = []
        self._urgent = False  # something in the outbox is waited for
        self._flush_at = 0.0  # when the rest of it goes out
        self._executor = Executor(
            scheduler,
            device,
            self._tell,
            lambda force: self._publish(force=force),
            lambda: not self._inbox.empty(),
            self._begin_reading,
            step_timeout_s=step_timeout_s,
            clock=clock,
        )
        self._turned_at: float | None = None  # when the last turn ended; None: it has slept since
        self._capacity_bytes = scheduler.ledger.usable_bytes
        # Written by the device thread, read by the event loop; each is one reference, replaced whole.
        self.draining = False
        self._dead_of: str | None = "the engine is starting"

    # Called on the event loop

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._dead_of = None
        self._thread.start()

    @property
    def not_ready_reason(self) -> str | None:
        return self._dead_of

    @property
    def alive(self) -> bool:
        """False once the device thread ended or is stuck in one action past its limit."""
        return self._thread.is_alive() and not self.stuck

    @property
    def stuck(self) -> bool:
        """In one action past its limit. Nothing but the end of the process ends it: the supervisor sees to that."""
        limit = self._executor.busy_until
        return self._thread.is_alive() and limit is not None and self._clock() >= limit

    @property
    def usable_bytes(self) -> int:
        """What one job could have if nothing else were on the device."""
        return self._capacity_bytes

    def submit(self, job: Job, need_bytes: int = 0, at: float | None = None) -> None:
        """Raises `Unavailable` when nothing more is taken, `NeverFits` when the model is larger than the device.

        at: the clock when the job came, for one that waited on another device before.
        """
        if self._dead_of is not None:
            raise Unavailable(f"Not accepting jobs: {self._dead_of}.", retry_after_s=5)
        self.check_fits(job.model, need_bytes)
        self._inbox.put(Submit(job, self._clock() if at is None else at))

    def check_fits(self, model: str, need_bytes: int) -> None:
        if need_bytes > self._capacity_bytes:
            raise NeverFits(
                f"{model} needs {need_bytes / 2**30:.1f} GiB, this device has {self._capacity_bytes / 2**30:.1f} GiB for models."
            )

    def cancel(self, job_id: str) -> None:
        self._inbox.put(Cancel(job_id))

    def recall(self, job_id: str) -> None:
        self._inbox.put(Recall(job_id))

    def load_model(self, model: str) -> None:
        self._inbox.put(LoadModel(model))

    def unload_model(self, model: str) -> None:
        self._inbox.put(UnloadModel(model))

    def forget(self, model: str) -> None:
        self._inbox.put(Forget(model))

    def pin(self, model: str, pinned: bool) -> None:
        self._inbox.put(Pin(model, pinned))

    def keep_alive(self, model: str, seconds: float | None) -> None:
        self._inbox.put(KeepAlive(model, seconds))

    async def drain(self, timeout_s: float) -> None:
        """Stop taking and starting jobs, let running ones finish for at most `timeout_s`, end the thread."""
        self.draining = True
        self._dead_of = "the server is shutting down"
        self._inbox.put(Drain())
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, self._thread.join, timeout_s)
        self._inbox.put(Stop())
        await loop.run_in_executor(None, self._thread.join, 2.0)

    # The device thread

    def _run(self) -> None:
        try:
            self._device.warm_up()
            while self._take_messages(block=False) and self._turn():
                pass
        except BaseException as error:
            self._dead_of = "the engine stopped on an error"
            logger.exception("engine stopped")
            if self._device.is_fatal(error):
                self._device.die()
            # Pictures and clips are in the store and run again in the next process; a chat has somebody waiting for it now.
            waiting = [entry.job for entry in self._scheduler.queue.in_order()]
            for job in (*self._executor.jobs.all(), *waiting):
                if job.type == "chat":
                    self._tell(JobFailed(job.id, "engine_stopped", "The engine stopped while this job ran.", True))
        finally:
            self._flush(force=True)

    def _turn(self) -> bool:
        """One decision carried out. False when the engine is drained."""
        began = self._clock() if self._turned_at is None else self._turned_at
        self._scheduler.observe(self._device.read_memory())
        action = self._scheduler.next_action(self._clock())
        match action:
            case Wait(until):
                self._publish(force=True)
                self._turned_at = None
                if self._scheduler.draining and not len(self._executor.jobs):
                    return False
                return self._rest(until)
            case _:
                self._executor.carry_out(action)
        self._publish()
        self._turned_at = self._clock()
        self._executor.turned(action, self._turned_at - began)
        return True

    def _begin_reading(self, model: str) -> None:
        threading.Thread(target=self._read, args=(model,), name="reader", daemon=True).start()

    def _read(self, model: str) -> None:
        """The reader's thread. What it cannot read, the load will say."""
        try:
            self._device.read(model)
        except Exception:
            logger.exception("reading ahead failed", extra={"model": model})
        finally:
            self._inbox.put(WasRead())

    def _rest(self, until: float | None) -> bool:
        return self._take_messages(block=True, until=until)

    def _take_messages(self, *, block: bool, until: float | None = None) -> bool:
        """Fold in what has come; False on `Stop`."""
        timeout = None if until is None else max(0.0, until - self._clock())
        while True:
            try:
                message = self._inbox.get(block, timeout)
            except queue.Empty:
                return True
            block, timeout = False, None
            match message:
                case Submit(job, at):
                    self._executor.take(job, at)
                case Cancel(job_id):
                    self._executor.cancel(job_id)
                case Recall(job_id):
                    self._executor.recall(job_id)
                case LoadModel(model):
                    self._scheduler.ask_load(model, self._clock())
                case UnloadModel(model):
                    self._scheduler.ask_unload(model)
                case Forget(model):
                    self._executor.forget(model)
                case Pin(model, pinned):
                    self._scheduler.pin(model, pinned)
                case KeepAlive(model, seconds):
                    self._scheduler.keep_alive(model, seconds)
                case WasRead():
                    self._executor.was_read()
                case Drain():
                    self._scheduler.draining = True
                case Stop():
                    return False
                case _:
                    assert_never(message)
            self._executor.snapshot.changed = True

    def _tell(self, event: Event) -> None:
        self._outbox.append(event)
        self._urgent = self._urgent or not (isinstance(event, JobProgressed) and 0 < event.step < event.total_steps)

    def _publish(self, *, force: bool = False) -> None:
        self._flush(force)  # a token does not wait for the picture to be drawn
        status = self._executor.snapshot.due(self._clock(), force)
        if status is not None:
            self._tell(status)
        if news := self._scheduler.peaks.take_news():
            self._tell(PeaksLearned(tuple(news)))
        self._flush(force)

    def _flush(self, force: bool) -> None:
        """Wake the event loop for what it must know now. Mere progress waits a little for company: each wake takes a core from the step."""
        now = self._clock()
        if not self._outbox or self._loop is None or not (force or self._urgent or now >= self._flush_at):
            return
        events, self._outbox = self._outbox, []
        self._urgent, self._flush_at = False, now + PROGRESS_INTERVAL_S
        try:
            self._loop.call_soon_threadsafe(self._deliver_all, events)
        except RuntimeError:  # the loop is closed: the process is ending, the store hands the jobs back
            logger.warning("events dropped at shutdown", extra={"count": len(events)})

    def _deliver_all(self, events: list[Event]) -> None:
        for event in events:
            self._deliver(event)
