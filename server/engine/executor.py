"""Carries out the scheduler's actions, and reports the outcomes to the scheduler and to the event loop.

Device thread only. Only the executor and its model loader load, step, park and free models, and only they change the
ledger to what really happened.
"""

from __future__ import annotations

import logging
import queue
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import assert_never

from models.errors import ModelsError
from pipelines.fault_points import reach
from pipelines.interface import Lane, NextStep, Note, OutOfMemory, StepCost, Update, WeightsChanged, never_yield
from server.engine.doing import Doing
from server.engine.eta import Estimates
from server.engine.lane_output import LaneOutput
from server.engine.learning import learn
from server.engine.model_loader import Device, ModelLoader
from server.engine.outbox import Outbox
from server.engine.running_jobs import RunningJobs
from server.job import Job
from server.protocol import (
    Cancel,
    Forget,
    JobCanceled,
    JobFailed,
    JobReturned,
    JobStarted,
    Message,
    PolicyMessage,
    RanOutOfMemory,
    Recall,
    Submit,
)
from server.scheduling.actions import (
    Action,
    Admit,
    DeviceAction,
    DropAdapters,
    Evict,
    Load,
    Park,
    Read,
    ResizeCache,
    Step,
    Unpark,
)
from server.scheduling.batch_size import bucket_of
from server.scheduling.scheduler import Scheduler

logger = logging.getLogger(__name__)

STEP_BURST_S = 0.05  # equal steps of a lane that works alone are run for so long without a new decision


class Executor:
    def __init__(
        self,
        scheduler: Scheduler,
        device: Device,
        inbox: queue.SimpleQueue[Message],
        outbox: Outbox,
        doing: Doing,
        *,
        clock: Callable[[], float],
    ) -> None:
        """inbox: a long forward is suspended when a message waits in it. doing: is told each action beforehand."""
        self.jobs = RunningJobs()
        self.lanes: dict[str, Lane] = {}
        self.estimates = Estimates()
        self._doing = doing
        self._scheduler = scheduler
        self._device = device
        self._inbox = inbox
        self._outbox = outbox
        self._clock = clock
        self._lane_output = LaneOutput(scheduler, self.jobs, self.estimates, outbox)
        self._model_loader = ModelLoader(scheduler, device, self.lanes, inbox, clock)
        self._forward_s = 0.0  # seconds of the forwards of the current turn

    # Messages

    def handle(self, message: Submit | Cancel | Recall | PolicyMessage) -> None:
        self._doing.begin("message", getattr(message, "model", ""))
        match message:
            case Submit(job, at):
                self._submit(job, at)
            case Cancel(job_id):
                self._cancel(job_id)
            case Recall(job_id):
                if job_id in self._scheduler.queue:
                    self._outbox.put(JobReturned(self._scheduler.withdraw(job_id).job))
            case _:
                self._scheduler.handle(message, self._clock())
                if isinstance(message, Forget):
                    self._fail_waiting(message.model, f"The model {message.model} was removed.")

    def _submit(self, job: Job, at: float) -> None:
        cooldown = self._scheduler.cooldowns.get(job.model)
        if cooldown is not None and cooldown.until > self._clock():
            self._outbox.put(JobFailed(job.id, "model_load_failed", cooldown.error.message, cooldown.error.retryable))
            return
        try:
            self._scheduler.residency.bytes_to_load(job.model)
        except (KeyError, ModelsError):  # the model was removed after the job was accepted
            self._outbox.put(JobFailed(job.id, "model_load_failed", f"The model {job.model} was removed.", True))
            return
        self._scheduler.add(job, at)

    def _cancel(self, job_id: str) -> None:
        if job_id in self._scheduler.queue:
            self._scheduler.withdraw(job_id)
            self._outbox.put(JobCanceled(job_id))
        elif (job := self.jobs.get(job_id)) is not None:
            self.jobs.cancel(job_id)
            self._doing.begin("cancel", job.model, [job_id])
            with self._contained(job.model), self._device.working():
                self._end_requests(job)

    def _end_requests(self, job: Job) -> None:
        """End the job's requests now and without a forward, because the lane's weights may be parked."""
        lane = self.lanes[job.model]
        for request in job.requests:
            lane.cancel(request.id)
        self._take_updates(job.model, lane.step(max_rows=0))
        if not lane.mid_forward:  # a forward that had yielded ends with the last of its requests
            self._scheduler.ledger.release(job.model, "activations")
        self._update_next_step(job.model)

    def look_for_inputs(self) -> None:
        """Notice lanes that can go on because files have been read."""
        for model in [name for name, resident in self._scheduler.residents.items() if resident.waits]:
            with self._contained(model):
                self._update_next_step(model)

    # Actions

    def carry_out(self, action: DeviceAction) -> None:
        model, jobs = (action.job.model, [action.job]) if isinstance(action, Admit) else (action.model, [])
        if isinstance(action, Step):
            jobs = self._jobs_of_step(model)
        name = type(action).__name__.lower()
        self._doing.begin(name, model, [job.id for job in jobs])
        with self._contained(model), self._device.working():
            if not isinstance(action, Load | Admit):  # these are reached where their failures are handled
                reach(name, model, jobs)
            self._carry_out(action)

    def _carry_out(self, action: DeviceAction) -> None:
        match action:
            case Read(model):
                self._model_loader.read(model)
            case Load(model):
                self._load(model)
            case Evict(model):
                self._model_loader.evict(model)
            case Park(model, components):
                self._model_loader.park(model, components)
            case Unpark(model, components):
                if not self._model_loader.unpark(model, components):
                    self._fail_running(model)
            case DropAdapters(model, components):
                self.lanes[model].drop_adapters(components)
                self._scheduler.placed(model, self.lanes[model].components, self.lanes[model].parked)
                self._scheduler.adapters_dropped(model, components, self._clock())
            case ResizeCache(model, n_bytes):
                held = self.lanes[model].resize_cache(n_bytes)
                self._scheduler.cache_resized(model, self._clock(), n_bytes, held)
            case Admit(job):
                self._admit(job)
            case Step(model, max_rows, reserve_bytes, in_tiles):
                self._step(model, max_rows, reserve_bytes, in_tiles)
            case _:
                assert_never(action)

    def _jobs_of_step(self, model: str) -> list[Job]:
        """The jobs that the lane's next step works for: those of its forward, or those that start in it."""
        lane, next_step = self.lanes[model], self._scheduler.residents[model].next_step
        if next_step is not None and lane.kind != "chat":  # a step of a chat lane lets waiting chats in, too
            of_requests = (self.jobs.of_request(each) for each in next_step.request_ids if self.jobs.has_request(each))
            return list({job.id: job for job in of_requests}.values())
        running = [job for job in self.jobs.all() if job.model == model]
        return [job for job in running if not self.jobs.has_run(job.id)] or running

    @contextmanager
    def _contained(self, model: str) -> Iterator[None]:
        """What a lane raises ends its jobs, and the model leaves the device. All else goes on.

        A lane ends a request that fails by itself; whatever it raises instead leaves it in an unknown state. The error
        passes through when the whole device is at fault, or when no lane is.
        """
        try:
            yield
        except BaseException as error:  # also the panic of a compiled library, which is no Exception
            if self._device.is_fatal(error) or (model not in self.lanes and model not in self._scheduler.residents):
                raise
            logger.exception("a model has failed, unloading it", extra={"model": model})
            self._drop(model)

    def _drop(self, model: str) -> None:
        lane = self.lanes.pop(model, None)
        jobs = [job for job in self.jobs.all() if job.model == model]
        for job in jobs:
            if self.jobs.fail(job.id):
                self._outbox.put(JobFailed(job.id, "model_error", "The model failed on this request.", True))
            self._lane_output.drop(job)
        self._model_loader.drop(model, lane, [request.id for job in jobs for request in job.requests])

    def turn_ended(self, action: Action, seconds: float) -> None:
        """Learn how long a turn took. seconds: of the whole turn, with the decision and the reports."""
        if isinstance(action, Admit):
            self.estimates.turn_ended(action.job.model, seconds, 0.0)
        elif isinstance(action, Step):
            self.estimates.turn_ended(action.model, seconds, self._forward_s)
            self._forward_s = 0.0

    def _load(self, model: str) -> None:
        error = self._model_loader.load(model)
        if error is not None:
            self._fail_waiting(model, error.message, error.retryable)
        elif model in self.lanes:
            self._update_next_step(model)

    def _fail_waiting(self, model: str, reason: str, retryable: bool = True) -> None:
        for waiting in self._scheduler.queue.of_model(model):
            self._scheduler.withdraw(waiting.job.id)
            self._outbox.put(JobFailed(waiting.job.id, "model_load_failed", reason, retryable))

    def _fail_running(self, model: str) -> None:
        """Fail the running jobs of a model whose weights do not fit back onto the device, and evict the model."""
        for job in self.jobs.all():
            if job.model == model and self.jobs.fail(job.id):
                message = "The model's weights no longer fit the device."
                self._outbox.put(JobFailed(job.id, "out_of_memory", message, True))
                self._end_requests(job)
        self._scheduler.unload(model)

    def _admit(self, job: Job) -> None:
        waiting = self._scheduler.admitted(job, self._clock())
        resident = self._scheduler.residents[job.model]
        waited_s = self._clock() - waiting.since
        load_s = max(0.0, min(resident.load_s, resident.since - waiting.since))
        self.jobs.add(job)
        self._outbox.put(JobStarted(job.id, round(waited_s * 1000), round(load_s * 1000)))
        try:
            reach("admit", job)
            for request in job.requests:
                self.lanes[job.model].admit(request)
        except BaseException as error:
            if self._device.is_fatal(error):
                raise
            logger.exception("job not admitted", extra={"job": job.id})
            self.jobs.fail(job.id)
            self._outbox.put(JobFailed(job.id, "model_error", "The model failed on this request.", True))
            self._end_requests(job)
            self._lane_output.drop(job)  # requests that the lane never got
        self._update_next_step(job.model)

    def _step(self, model: str, max_rows: int | None, reserve_bytes: int, in_tiles: bool) -> None:
        lane, ledger = self.lanes[model], self._scheduler.ledger
        free_bytes = ledger.free_bytes
        if reserve_bytes:
            ledger.book(model, "activations", reserve_bytes)
        began = self._clock()
        chat_due_at = began + self._scheduler.chat_due_in_s

        def should_yield() -> bool:
            return self._clock() >= chat_due_at or not self._inbox.empty() or self._device.others_wait()

        until = min(began + STEP_BURST_S, self._scheduler.decided_until(model))
        next_step = self._scheduler.residents[model].next_step
        updates = list(lane.step(max_rows, should_yield if lane.kind != "chat" else never_yield, in_tiles))
        notes = list(lane.take_costs())
        while self._clock() < until and _same_step_follows(lane, next_step, notes) and not should_yield():
            updates += lane.step(max_rows, should_yield, in_tiles)
            notes += lane.take_costs()
        if not lane.mid_forward:
            ledger.release(model, "activations")
        now = self._clock()
        if any(isinstance(note, WeightsChanged) for note in notes):
            self._scheduler.placed(model, lane.components, lane.parked)
        # A chat lane that ran out of memory makes a smaller KV cache. One that has freed its cache makes it anew in the
        # next step, so those bytes stay booked.
        if 0 < lane.cache_bytes != ledger.held_by(model, "kv_cache"):
            self._scheduler.cache_resized(model, now, lane.cache_bytes, lane.cache_bytes)
        self._scheduler.stepped(model, now, now - began, self._learn(model, notes, free_bytes))
        self._take_updates(model, updates)
        self._update_next_step(model)

    def _take_updates(self, model: str, updates: Sequence[Update]) -> None:
        """Report the updates, and those of the requests that end because their job has failed."""
        lane, now = self.lanes[model], self._clock()
        while updates:
            canceled = [self._lane_output.take(lane, model, update, now) for update in updates]
            updates = lane.step(max_rows=0) if any(canceled) else ()

    def _learn(self, model: str, notes: Sequence[Note], free_bytes: int) -> Mapping[str, float]:
        """Learn from the finished forwards; returns the device seconds of each job."""
        self.estimates.record(note for note in notes if isinstance(note, StepCost))
        key, peaks = self._scheduler.residents[model].key, self._scheduler.peaks
        for note in notes:
            if isinstance(note, StepCost):
                self._forward_s += note.seconds
                # Where measuring takes time, a shape is measured once; its later forwards hold as much as the first.
                entry, width = f"{note.component}.{note.entry}", bucket_of(note.rows)
                known = peaks.predict(key, entry, note.shape, note.units, width)
                self.estimates.record_peak(note.request_ids, known if note.peak_bytes is None else note.peak_bytes)
            elif isinstance(note, OutOfMemory):
                self._outbox.put(RanOutOfMemory(model))
        shares: dict[str, float] = defaultdict(float)
        for request_id, seconds in learn(notes, key, free_bytes, peaks, self._scheduler.batch_sizes).items():
            if self.jobs.has_request(request_id):
                shares[self.jobs.of_request(request_id).id] += seconds
        return shares

    def _update_next_step(self, model: str) -> None:
        lane = self.lanes[model]
        next_step = lane.next_step()
        if next_step is not None:
            self.jobs.ran(next_step.request_ids)
        self._scheduler.expects(model, next_step, lane.mid_forward and next_step is not None, lane.waits)


def _same_step_follows(lane: Lane, next_step: NextStep | None, notes: Sequence[Note]) -> bool:
    """Whether the scheduler would decide on the same step again. With a single row there is no width to choose."""
    if next_step is None or next_step.rows > 1 or lane.mid_forward or lane.next_step() != next_step:
        return False
    return all(isinstance(note, StepCost) for note in notes)
