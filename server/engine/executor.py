"""Carries out what the scheduler decides, one action at a time, and tells the outcome to both sides. Device thread only.

It alone loads, steps, parks and frees models, and it alone changes the ledger by what really happened.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import assert_never

from models.errors import ModelsError
from pipelines.interface import Lane, NextStep, Note, OutOfMemory, StepCost, WeightsChanged, never_yield
from server.engine.eta import Estimates
from server.engine.lane_output import LaneOutput
from server.engine.model_loader import Device, ModelLoader
from server.engine.running_jobs import RunningJobs
from server.engine.snapshot import SnapshotPublisher
from server.job import Job
from server.memory.activations import Peaks
from server.protocol import Event, JobCanceled, JobFailed, JobReturned, JobStarted, Peak, RanOutOfMemory
from server.scheduling.actions import Action, Admit, Evict, Load, Park, Read, ResizeCache, Step, Unpark
from server.scheduling.batch_size import BatchSizes, bucket_of
from server.scheduling.scheduler import Scheduler

logger = logging.getLogger(__name__)

TOGETHER_S = 0.05  # equal steps of a lane that is alone are one turn for so long: as often as news go out, and more often than people notice
LOAD_LIMIT_S = 900.0  # a load may take this long before the heartbeat stops: a large checkpoint from a slow disk


class Executor:
    def __init__(
        self,
        scheduler: Scheduler,
        device: Device,
        tell: Callable[[Event], None],
        publish: Callable[[bool], None],
        pressed: Callable[[], bool],
        begin_reading: Callable[[str], None] = lambda model: None,
        *,
        step_timeout_s: float,
        clock: Callable[[], float],
    ) -> None:
        """`publish`: tell what has changed, at once when asked to. `pressed`: whether a message waits; a long forward gives way to it.

        `begin_reading`: have a model's files read on another thread, and `was_read` called on this one when that is over.
        """
        self._scheduler = scheduler
        self._device = device
        self._tell = tell
        self._publish = publish
        self._pressed = pressed
        self._step_timeout_s = step_timeout_s
        self._clock = clock
        self._lanes: dict[str, Lane] = {}
        self._estimates = Estimates()
        self.jobs = RunningJobs()
        self.snapshot = SnapshotPublisher(scheduler, self.jobs, self._estimates, self._lanes, clock)
        self._lane_output = LaneOutput(scheduler, self.jobs, self._estimates, self.snapshot, tell)
        self._model_loader = ModelLoader(scheduler, device, self._lanes, begin_reading, clock)
        self._forward_s = 0.0  # of the turn in hand, in forwards
        self.busy_until: float | None = None  # by when the action in hand must be over; read by the event loop

    # What the event loop asked for

    def take(self, job: Job, at: float) -> None:
        cooldown = self._scheduler.cooldowns.get(job.model)
        if cooldown is not None and cooldown.until > self._clock():
            self._tell(JobFailed(job.id, "model_load_failed", cooldown.reason, True))
            return
        try:
            self._scheduler.residency.bytes_to_load(job.model)
        except (KeyError, ModelsError):  # it was removed while the job was on its way
            self._tell(JobFailed(job.id, "model_load_failed", f"The model {job.model} was removed.", True))
            return
        self._scheduler.add(job, at)

    def cancel(self, job_id: str) -> None:
        if job_id in self._scheduler.queue:
            self._scheduler.withdraw(job_id)
            self._tell(JobCanceled(job_id))
        elif (job := self.jobs.get(job_id)) is not None:
            self.jobs.cancel(job_id)
            for request in job.requests:
                self._lanes[job.model].cancel(request.id)
            self._look(job.model)

    def recall(self, job_id: str) -> None:
        if job_id in self._scheduler.queue:
            self._tell(JobReturned(self._scheduler.withdraw(job_id).job))

    def forget(self, model: str) -> None:
        self._scheduler.forget(model)
        self._fail_waiting(model, f"The model {model} was removed.")

    def turned(self, action: Action, seconds: float) -> None:
        """A turn is over, its decision and news included."""
        if isinstance(action, Admit):
            self._estimates.turned(action.job.model, seconds, 0.0)
        elif isinstance(action, Step):
            self._estimates.turned(action.model, seconds, self._forward_s)
            self._forward_s = 0.0

    # What the scheduler decided

    def carry_out(self, action: Read | Load | Evict | Park | Unpark | ResizeCache | Admit | Step) -> None:
        with self._device.working():
            self._do(action)
        if not isinstance(action, Step):
            self.snapshot.changed = True

    def was_read(self) -> None:
        """Told by whoever read the files: the model on its way may be loaded."""
        self._model_loader.was_read()

    def _do(self, action: Read | Load | Evict | Park | Unpark | ResizeCache | Admit | Step) -> None:
        match action:
            case Read(model):
                self.snapshot.loading = model
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
            case ResizeCache(model, n_bytes):
                self._scheduler.cache_resized(model, self._clock(), n_bytes, self._lanes[model].resize_cache(n_bytes))
            case Admit(job):
                self._admit(job)
            case Step(model, max_rows, reserve_bytes):
                self._step(model, max_rows, reserve_bytes)
            case _:
                assert_never(action)

    def _load(self, model: str) -> None:
        self.busy_until = self._clock() + LOAD_LIMIT_S
        self.snapshot.loading = model
        self._publish(True)
        reason = self._model_loader.load(model)
        self.snapshot.loading = self.busy_until = None
        if reason is not None:
            self._fail_waiting(model, reason)
        elif model in self._lanes:
            self._look(model)

    def _fail_waiting(self, model: str, reason: str) -> None:
        for waiting in self._scheduler.queue.of_model(model):
            self._scheduler.withdraw(waiting.job.id)
            self._tell(JobFailed(waiting.job.id, "model_load_failed", reason, True))

    def _fail_running(self, model: str) -> None:
        """Its weights cannot come back: what runs on it ends, and it leaves."""
        for job in self.jobs.all():
            if job.model == model and self.jobs.fail(job.id):
                self._tell(JobFailed(job.id, "out_of_memory", "The model's weights no longer fit the device.", True))
                for request in job.requests:
                    self._lanes[model].cancel(request.id)
        self._scheduler.ask_unload(model)
        self._look(model)

    def _admit(self, job: Job) -> None:
        waiting = self._scheduler.admitted(job, self._clock())
        resident = self._scheduler.residents[job.model]
        waited_s = self._clock() - waiting.since
        load_s = max(0.0, min(resident.load_s, resident.since - waiting.since))
        self.jobs.add(job)
        for request in job.requests:
            self._lanes[job.model].admit(request)
        self._look(job.model)
        self._tell(JobStarted(job.id, round(waited_s * 1000), round(load_s * 1000)))

    def _step(self, model: str, max_rows: int | None, reserve_bytes: int) -> None:
        lane, ledger = self._lanes[model], self._scheduler.ledger
        room = ledger.free_bytes
        if reserve_bytes:
            ledger.book(model, "activations", reserve_bytes)
        began = self._clock()
        self.busy_until = began + self._step_timeout_s
        chat_at = began + self._scheduler.chat_due_in_s

        def should_yield() -> bool:
            return self._clock() >= chat_at or self._pressed() or self._device.others_wait()

        until = min(began + TOGETHER_S, self._scheduler.decided_until(model))
        next_step = self._scheduler.residents[model].next_step
        updates = list(lane.step(max_rows, should_yield if lane.kind != "chat" else never_yield))
        notes = list(lane.take_costs())
        while self._clock() < until and self._next_is_alike(lane, next_step, notes) and not should_yield():
            updates += lane.step(max_rows, should_yield)
            notes += lane.take_costs()
        self.busy_until = None
        if not lane.mid_forward:
            ledger.release(model, "activations")
        now = self._clock()
        if any(isinstance(note, WeightsChanged) for note in notes):
            self._scheduler.placed(model, lane.components, lane.parked)
        self._scheduler.stepped(model, now, now - began, self._learn(model, notes, room))
        for update in updates:
            self._lane_output.take(lane, model, update, now)
        self._look(model)

    def _next_is_alike(self, lane: Lane, next_step: NextStep | None, notes: Sequence[Note]) -> bool:
        """The scheduler, asked once more, would say what it said of the step before: with one row there is no width to choose."""
        if next_step is None or next_step.rows > 1 or lane.mid_forward or lane.next_step() != next_step:
            return False
        return all(isinstance(note, StepCost) for note in notes)

    def _learn(self, model: str, notes: Sequence[Note], room: int) -> Mapping[str, float]:
        """Device seconds by job."""
        self._estimates.note(note for note in notes if isinstance(note, StepCost))
        key = self._scheduler.residents[model].key
        for note in notes:
            if isinstance(note, StepCost):
                self._forward_s += note.seconds
                # A shape is measured once where measuring costs time: later forwards of it held what the first one did.
                entry, rows = f"{note.component}.{note.entry}", bucket_of(note.rows)
                known = self._scheduler.peaks.predict(key, entry, note.shape, note.units, rows)
                self._estimates.held(note.request_ids, known if note.peak_bytes is None else note.peak_bytes)
            elif isinstance(note, OutOfMemory):
                self._tell(RanOutOfMemory(model))
        shares: dict[str, float] = defaultdict(float)
        for request_id, seconds in learn(notes, key, room, self._scheduler.peaks, self._scheduler.batch_sizes).items():
            if self.jobs.has_request(request_id):
                shares[self.jobs.of_request(request_id).id] += seconds
        return shares

    def _look(self, model: str) -> None:
        """Tell the scheduler what the lane would do next."""
        lane = self._lanes[model]
        next_step = lane.next_step()
        self._scheduler.expects(model, next_step, lane.mid_forward and next_step is not None)


def learn(
    notes: Iterable[Note], key: str, free_bytes: int, peaks: Peaks, batch_sizes: BatchSizes
) -> Mapping[str, float]:
    """Seconds used, by request. `free_bytes`: what was free of the device when the quantum began."""
    used: dict[str, float] = defaultdict(float)
    for note in notes:
        if isinstance(note, WeightsChanged):
            continue
        entry, bucket = f"{note.component}.{note.entry}", bucket_of(note.rows)
        if not isinstance(note, StepCost):
            peaks.note(Peak(key, entry, note.shape, note.units, bucket, free_bytes, failed=True))
            continue
        if note.peak_bytes is not None:
            peaks.note(Peak(key, entry, note.shape, note.units, bucket, note.peak_bytes))
        batch_sizes.note(key, f"{note.stage} {note.shape}", note.rows, note.seconds)
        for request_id in note.request_ids:
            used[request_id] += note.seconds / len(note.request_ids)
    return used
