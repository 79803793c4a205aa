"""The device thread, its inbox and its events: the only bridge between the event loop and the models.

In by message (`inbox.put`), out by `loop.call_soon_threadsafe`. The thread asks the scheduler what is next, does it,
and tells the outcome to both sides. It alone loads, steps and frees models, so nothing here needs a lock.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import assert_never

from pipelines.interface import (
    Canceled,
    DiffusionRequest,
    Failed,
    Lane,
    Progressed,
    Rendered,
    Replied,
    StepCost,
    TextDelta,
    Update,
)
from server.errors import NeverFits, Unavailable
from server.estimates import Estimates
from server.inbox import (
    Cancel,
    Drain,
    Forget,
    KeepAlive,
    LoadModel,
    Message,
    Pin,
    Recall,
    Stop,
    Submit,
    UnloadModel,
)
from server.jobs import (
    Event,
    Job,
    JobCanceled,
    JobFailed,
    JobProgressed,
    JobReplied,
    JobReturned,
    JobStarted,
    JobText,
    OutputReady,
)
from server.memory import Reading
from server.picture import PicturePublisher
from server.running import RunningJobs
from server.scheduler import Admit, Evict, Load, Scheduler, Step, Wait

logger = logging.getLogger(__name__)

POISONED = 86  # exit code of a process whose device cannot be used again; the supervisor starts it anew
LOAD_LIMIT_S = 900.0  # a load may take this long before the heartbeat stops: a large checkpoint from a slow disk


@dataclass(frozen=True, slots=True)
class Device:
    """What the engine needs of the machine, injected so that the server imports no torch."""

    load: Callable[[str], Lane]  # model name → lane; raises on failure
    read_memory: Callable[[], Reading | None]
    is_fatal: Callable[[BaseException], bool]
    die: Callable[[], None]  # ends the process with POISONED, now
    warm_up: Callable[[], None]  # slow imports, done on the device thread before the first job


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
        self._step_timeout_s = step_timeout_s
        self._clock = clock
        self._inbox: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="device", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._outbox: list[Event] = []
        self._lanes: dict[str, Lane] = {}
        self._estimates = Estimates()
        self._jobs = RunningJobs()
        self._picture = PicturePublisher(scheduler, self._jobs, self._estimates, self._lanes)
        self._capacity_bytes = scheduler.ledger.usable_bytes
        # Written by the device thread, read by the event loop; each is one reference, replaced whole.
        self._busy_until: float | None = None  # by when the action in hand must be over
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
        limit = self._busy_until
        return self._thread.is_alive() and limit is not None and self._clock() >= limit

    def submit(self, job: Job, need_bytes: int = 0) -> None:
        """Raises `Unavailable` when nothing more is taken, `NeverFits` when the model is larger than the device."""
        if self._dead_of is not None:
            raise Unavailable(f"Not accepting jobs: {self._dead_of}.", retry_after_s=5)
        self.check_fits(job.model, need_bytes)
        self._inbox.put(Submit(job, self._clock()))

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
            for job in (*self._jobs.all(), *waiting):
                if job.type == "chat":
                    self._tell(JobFailed(job.id, "engine_stopped", "The engine stopped while this job ran.", True))
        finally:
            self._flush()

    def _turn(self) -> bool:
        """One decision carried out. False when the engine is drained."""
        self._scheduler.ledger.observe(self._device.read_memory())
        action = self._scheduler.next_action(self._clock())
        match action:
            case Load(model):
                self._load(model)
            case Evict(model):
                self._evict(model)
            case Admit(job):
                self._admit(job)
            case Step(model):
                self._step(model)
            case Wait(until):
                self._publish(force=True)
                if self._scheduler.draining and not len(self._jobs):
                    return False
                return self._take_messages(block=True, until=until)
            case _:
                assert_never(action)
        self._publish()
        return True

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
                    self._take(job, at)
                case Cancel(job_id):
                    self._cancel(job_id)
                case Recall(job_id):
                    self._recall(job_id)
                case LoadModel(model):
                    self._scheduler.ask_load(model, self._clock())
                case UnloadModel(model):
                    self._scheduler.ask_unload(model)
                case Forget(model):
                    self._forget(model)
                case Pin(model, pinned):
                    self._scheduler.pin(model, pinned)
                case KeepAlive(model, seconds):
                    self._scheduler.keep_alive(model, seconds)
                case Drain():
                    self._scheduler.draining = True
                case Stop():
                    return False
                case _:
                    assert_never(message)
            self._picture.changed = True

    def _take(self, job: Job, at: float) -> None:
        cooldown = self._scheduler.cooldowns.get(job.model)
        if cooldown is not None and cooldown.until > self._clock():
            self._tell(JobFailed(job.id, "model_load_failed", cooldown.reason, True))
            return
        self._scheduler.add(job, at)

    def _cancel(self, job_id: str) -> None:
        if job_id in self._scheduler.queue:
            self._scheduler.queue.remove(job_id)
            self._tell(JobCanceled(job_id))
        elif (job := self._jobs.get(job_id)) is not None:
            self._jobs.cancel(job_id)
            for request in job.requests:
                self._lanes[job.model].cancel(request.id)

    def _recall(self, job_id: str) -> None:
        if job_id in self._scheduler.queue:
            self._tell(JobReturned(self._scheduler.queue.remove(job_id).job))

    def _forget(self, model: str) -> None:
        self._scheduler.forget(model)
        self._fail_waiting(model, f"The model {model} was removed.")

    def _fail_waiting(self, model: str, reason: str) -> None:
        for waiting in self._scheduler.queue.of_model(model):
            self._scheduler.queue.remove(waiting.job.id)
            self._tell(JobFailed(waiting.job.id, "model_load_failed", reason, True))

    def _load(self, model: str) -> None:
        self._busy_until = self._clock() + LOAD_LIMIT_S
        self._picture.loading = model
        self._publish(force=True)
        began = self._clock()
        lane: Lane | None = None
        try:
            self._scheduler.ledger.book(model, "weights", self._scheduler.need_bytes(model))
            lane = self._device.load(model)
        except Exception as error:
            if self._device.is_fatal(error):
                raise
            logger.exception("model load failed", extra={"model": model})
        self._picture.loading = None
        self._busy_until = None
        if lane is None:
            self._load_failed(model)
            return
        self._lanes[model] = lane
        self._scheduler.ledger.correct(model, "weights", lane.weight_bytes)
        self._scheduler.ledger.correct(model, "kv_cache", lane.cache_bytes)
        seconds = self._clock() - began
        self._scheduler.loaded(model, self._clock(), seconds)
        self._estimates.loaded(model, seconds)
        self._picture.changed = True
        logger.info("model loaded", extra={"model": model, "bytes": lane.weight_bytes, "ms": round(seconds * 1000)})

    def _load_failed(self, model: str) -> None:
        self._scheduler.ledger.release(model)
        cooldown = self._scheduler.load_failed(model, self._clock(), f"The model {model} failed to load.")
        self._fail_waiting(model, cooldown.reason)
        self._picture.changed = True

    def _evict(self, model: str) -> None:
        self._lanes.pop(model).close()
        self._scheduler.ledger.release(model)
        self._scheduler.evicted(model)
        self._picture.changed = True
        logger.info("model evicted", extra={"model": model})

    def _admit(self, job: Job) -> None:
        waiting = self._scheduler.admitted(job, self._clock())
        resident = self._scheduler.residents[job.model]
        waited_s = self._clock() - waiting.since
        load_s = max(0.0, min(resident.load_s, resident.since - waiting.since))
        self._jobs.add(job)
        for request in job.requests:
            self._lanes[job.model].admit(request)
        self._tell(JobStarted(job.id, round(waited_s * 1000), round(load_s * 1000)))
        self._picture.changed = True

    def _step(self, model: str) -> None:
        lane = self._lanes[model]
        began = self._clock()
        self._busy_until = began + self._step_timeout_s
        updates = lane.step()
        self._busy_until = None
        now = self._clock()
        self._scheduler.stepped(model, now, now - began)
        self._estimates.note(note for note in lane.take_costs() if isinstance(note, StepCost))
        for update in updates:
            self._take_update(model, update)

    def _take_update(self, model: str, update: Update) -> None:
        job = self._jobs.of_request(update.request_id)
        match update:
            case Progressed(request_id, stage, step, total):
                self._estimates.progressed(request_id, step)
                self._tell(JobProgressed(job.id, *self._jobs.progress(request_id, stage, step, total)))
                self._picture.moved = True
            case TextDelta(_, text):
                self._tell(JobText(job.id, text))
            case Rendered(request_id, frames, batch_peak, scheduler):
                index, request = self._jobs.find(request_id)
                if isinstance(request, DiffusionRequest):
                    self._estimates.finished(model, request)
                self._tell(OutputReady(job.id, index, frames, batch_peak, scheduler))
                self._end_request(job, request_id)
            case Replied(request_id, text, prompt_tokens, completion_tokens, finish_reason):
                self._tell(JobReplied(job.id, text, prompt_tokens, completion_tokens, finish_reason))
                self._end_request(job, request_id)
            case Failed(request_id, code, message, detail):
                logger.error("job failed", extra={"job": job.id, "code": code, "detail": detail})
                if self._jobs.fail(job.id):
                    self._tell(JobFailed(job.id, code, message, code in ("out_of_memory", "model_error")))
                    for request in job.requests:
                        self._lanes[model].cancel(request.id)
                self._end_request(job, request_id)
            case Canceled(request_id):
                self._end_request(job, request_id)
            case _:
                assert_never(update)

    def _end_request(self, job: Job, request_id: str) -> None:
        self._estimates.forget(request_id)
        if self._scheduler.request_ended(job.id, job.model):
            if self._jobs.end(job.id) == "canceled":
                self._tell(JobCanceled(job.id))
            self._picture.changed = True

    def _tell(self, event: Event) -> None:
        self._outbox.append(event)

    def _publish(self, *, force: bool = False) -> None:
        status = self._picture.due(self._clock(), force)
        if status is not None:
            self._tell(status)
        self._flush()

    def _flush(self) -> None:
        if not self._outbox or self._loop is None:
            return
        events, self._outbox = self._outbox, []
        try:
            self._loop.call_soon_threadsafe(self._deliver_all, events)
        except RuntimeError:  # the loop is closed: the process is ending, the store hands the jobs back
            logger.warning("events dropped at shutdown", extra={"count": len(events)})

    def _deliver_all(self, events: list[Event]) -> None:
        for event in events:
            self._deliver(event)
