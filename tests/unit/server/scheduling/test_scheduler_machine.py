"""In random histories the ledger equals what lanes hold, stays within the device, and every job ends exactly once.

A Hypothesis state machine drives the real scheduler, ledger and executor over fake lanes, on a device that runs out of
memory when it is full. Six seeded bugs, one at a time, show that the machine finds such bugs.
"""

from __future__ import annotations

import queue
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from pipelines.interface import Request, never_yield
from server.engine.doing import Doing
from server.engine.executor import Executor
from server.engine.model_loader import Device, ModelLoader
from server.engine_status import LoadError
from server.memory.ledger import Ledger, Reading
from server.protocol import (
    Cancel,
    Event,
    JobCanceled,
    JobFailed,
    JobReplied,
    JobReturned,
    JobStarted,
    LoadModel,
    Message,
    OutputReady,
    Pin,
    Recall,
    Submit,
    UnloadModel,
)
from server.scheduling import eviction
from server.scheduling.actions import Evict, ModelFacts, Wait
from server.scheduling.eviction import Candidate, Victim
from server.scheduling.fair_queue import FairQueue
from server.scheduling.scheduler import Scheduler
from tests.support.jobs import job
from tests.support.lanes.fake_lane import FakeLane, is_memory_error

CAPACITY = 1000
SIZES = {"small": 200, "middle": 400, "large": 600, "chat": 300}
PEAK = 60  # activation bytes of one row
OWNERS = st.sampled_from("abc")
MODELS = st.sampled_from(sorted(SIZES))


@dataclass
class StrictLane(FakeLane):
    """Refuses a request that it already runs, and runs out of memory when the device is full."""

    world: World | None = None

    def admit(self, request: Request) -> None:
        assert request.id not in self._running, "admitted twice"
        super().admit(request)

    def step(
        self, max_rows: int | None = None, should_yield: Callable[[], bool] = never_yield, in_tiles: bool = False
    ) -> object:
        assert self.world is not None
        self.room = max(1, (CAPACITY - self.world.held() - self.world.others) // PEAK)
        return super().step(max_rows, should_yield)

    def unpark(self, names: Sequence[str]) -> int:
        assert self.world is not None
        self.world.check_room(sum(self.parked[name] for name in names))
        return super().unpark(names)


@dataclass
class EventList:
    """Takes the events of an executor, as an outbox does."""

    events: list[Event]

    def put(self, event: Event) -> None:
        self.events.append(event)


@dataclass
class World:
    """A device that other programs use too, with an executor that takes one turn at a time."""

    host_bytes: int = 0
    others: int = 0  # bytes that other programs hold
    fragmented: int = 0  # bytes that the driver reports as free although they cannot be allocated
    turns_to_read: int = -1  # turns until the files of the model that is being loaded are read
    now: float = 0.0
    lanes: dict[str, StrictLane] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)  # models that do not load
    events: list[Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.scheduler = Scheduler(
            Ledger(name="d", capacity_bytes=CAPACITY, host_bytes=self.host_bytes),
            self._facts,
            min_residency_s=1,
            reads_ahead=True,
        )
        self.observe()
        device = Device(
            self._load, self._read_memory, lambda error: False, is_memory_error, lambda: None, lambda: None,
            in_background=self._begin_reading,
        )  # fmt: skip
        self.inbox: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self.executor = Executor(
            self.scheduler,
            device,
            self.inbox,
            EventList(self.events),
            Doing(9, lambda: self.now),
            clock=lambda: self.now,
        )

    def check_room(self, n_bytes: int) -> None:
        if self.held() + self.others + n_bytes > CAPACITY - self.fragmented:
            raise MemoryError("the device is full")

    def held(self) -> int:
        return sum(lane.weight_bytes + lane.cache_bytes for lane in self.lanes.values() if not lane.closed)

    def observe(self) -> None:
        self.scheduler.observe(self._read_memory())

    def has_open_lanes(self) -> bool:
        return any(not lane.closed for lane in self.lanes.values())

    def turn(self) -> bool:
        """Decide once and carry the action out. False when there is nothing to do now."""
        self.observe()
        if self.turns_to_read == 0:
            self.finish_reading()
        self.turns_to_read -= 1
        while not self.inbox.empty():
            self.executor.handle(self.inbox.get())
        action = self.scheduler.next_action(self.now)
        if isinstance(action, Wait) and self.turns_to_read >= 0:
            return True
        if isinstance(action, Wait):
            return False
        self.executor.carry_out(action)
        assert self.held() + self.others <= CAPACITY, "more is held than the device has"
        self.now += 0.01
        return True

    def _begin_reading(self, read: Callable[[], None]) -> None:
        self.finish_reading, self.turns_to_read = read, 2

    @property
    def loading(self) -> str:
        """The model that is being loaded; empty: none."""
        loading = self.scheduler.residency.loading
        return loading.model if loading is not None else ""

    def booked_for_load(self) -> int:
        """Returns the bytes that are booked for the model whose files are being read."""
        return SIZES[self.loading] if self.loading else 0

    def _facts(self, model: str) -> ModelFacts:
        kind = "chat" if model == "chat" else "image"
        return ModelFacts(model, kind, SIZES[model], 4, 50.0, cache_bytes=100 if kind == "chat" else 0)

    def _load(self, model: str) -> StrictLane:
        assert model == self.loading
        if model in self.broken:
            raise OSError("the disk is gone")
        if model == "chat":
            weights, cache = {"model": SIZES[model] - 100}, 100
        else:
            weights, cache = {"text_encoder": SIZES[model] // 2, "model": SIZES[model] // 2}, 0
        lane = StrictLane("chat" if cache else "image", weights, cache, peak_bytes=PEAK, blocks=3, world=self)
        self.check_room(lane.weight_bytes + lane.cache_bytes)
        self.lanes[model] = lane
        return lane

    def _read_memory(self) -> Reading:
        held = self.held()
        return Reading(free_bytes=CAPACITY - held - self.others, ours_bytes=held)


class Machine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.submitted: dict[str, int] = {}  # job id → number of its outputs

    @initialize(host_bytes=st.sampled_from([0, 500, 2000]))
    def begin(self, host_bytes: int) -> None:
        self.world = World(host_bytes)

    @rule(model=MODELS, n=st.integers(1, 3), steps=st.integers(1, 4), owner=OWNERS, turns=st.integers(0, 6))
    def submit(self, model: str, n: int, steps: int, owner: str, turns: int) -> None:
        job_id = f"{owner}{len(self.submitted)}"
        self.submitted[job_id] = n
        self.world.executor.handle(Submit(job(job_id, model, n, steps), self.world.now))
        for _ in range(turns):
            self.world.turn()

    @precondition(lambda self: self.submitted)
    @rule(data=st.data(), recall=st.booleans())
    def withdraw(self, data: st.DataObject, recall: bool) -> None:
        job_id = data.draw(
            st.sampled_from(sorted(self.submitted.keys() - self._ends().keys()) or sorted(self.submitted))
        )
        self.world.executor.handle(Recall(job_id) if recall else Cancel(job_id))

    @rule(model=MODELS)
    def a_checkpoint_breaks_or_is_mended(self, model: str) -> None:
        self.world.broken ^= {model}

    @rule(n_bytes=st.integers(0, 700))
    def other_programs_take_memory(self, n_bytes: int) -> None:
        self.world.others = min(n_bytes, CAPACITY - self.world.held() - self.world.booked_for_load())
        self.world.observe()

    @rule(n_bytes=st.sampled_from([0, 150, 700]))
    def memory_is_fragmented(self, n_bytes: int) -> None:
        self.world.fragmented = n_bytes

    @rule(seconds=st.sampled_from([0.5, 3.0, 15.0, 120.0]))
    def time_passes(self, seconds: float) -> None:
        self.world.now += seconds

    @rule(n=st.integers(1, 25))
    def the_device_works(self, n: int) -> None:
        for _ in range(n):
            self.world.turn()

    @rule(model=MODELS, message=st.sampled_from(["load", "unload", "pin", "unpin"]))
    def an_operator_sends(self, model: str, message: str) -> None:
        messages = {"load": LoadModel(model), "unload": UnloadModel(model)}
        self.world.executor.handle(messages.get(message, Pin(model, message == "pin")))

    @invariant()
    def the_ledger_equals_what_is_held_and_stays_within_the_device(self) -> None:
        ledger, held = self.world.scheduler.ledger, self.world.held()
        activations = sum(ledger.held_by(model, "activations") for model in SIZES)
        assert ledger.booked_bytes == held + activations + self.world.booked_for_load()
        assert 0 <= ledger.booked_bytes <= CAPACITY
        assert 0 <= ledger.free_bytes <= CAPACITY - held - self.world.others
        status = ledger.status()
        assert sum(holder.n_bytes for holder in status.holders) == status.used_bytes
        assert all(holder.n_bytes > 0 for holder in status.holders)
        parked = sum(sum(lane.parked.values()) for lane in self.world.lanes.values() if not lane.closed)
        assert parked == ledger.host_bytes - ledger.host_free_bytes or not ledger.host_bytes
        assert parked <= ledger.host_bytes

    @invariant()
    def no_job_starts_or_ends_twice(self) -> None:
        assert not self.world.events or max(self._ends().values(), default=0) <= 1
        started = Counter(e.job_id for e in self.world.events if isinstance(e, JobStarted))
        assert max(started.values(), default=0) <= 1

    def teardown(self) -> None:
        """When the rules end and all memory is free again, the device ends every job and evicts every model."""
        world = self.world
        world.others = world.fragmented = 0
        world.broken.clear()
        for model in SIZES:
            world.executor.handle(Pin(model, False))
        for _ in range(1500):
            if not world.turn():
                world.now += 60.0
                if not world.turn() and not world.has_open_lanes():
                    break
        assert self._ends().keys() == self.submitted.keys(), "a job was lost"
        assert world.scheduler.ledger.booked_bytes == 0, "the ledger did not return to its baseline"
        assert world.scheduler.ledger.host_free_bytes == world.scheduler.ledger.host_bytes

    def _ends(self) -> Counter[str]:
        ends: Counter[str] = Counter()
        outputs: Counter[str] = Counter()
        for event in self.world.events:
            match event:
                case JobFailed() | JobCanceled() | JobReplied():
                    ends[event.job_id] += 1
                case JobReturned(returned):
                    ends[returned.id] += 1
                case OutputReady(job_id):
                    outputs[job_id] += 1
        ends.update(job_id for job_id, n in outputs.items() if n >= self.submitted[job_id] and not ends[job_id])
        return ends


QUICK = settings(
    max_examples=300, stateful_step_count=40, deadline=None, derandomize=True, database=None,
    suppress_health_check=list(HealthCheck), phases=[Phase.generate], print_blob=False,
)  # fmt: skip


@pytest.mark.slow
def test_in_any_history_the_ledger_equals_what_is_held_and_every_job_ends_once() -> None:
    run_state_machine_as_test(Machine, settings=QUICK)


def victims_with_busy_models(candidates: Sequence[Candidate], ledger: Ledger, now: float, *, impatient: bool) -> object:
    for candidate in candidates:
        yield Victim(candidate.name, ledger.held_by(candidate.name), Evict(candidate.name))


def take_without_removing(self: FairQueue, job_id: str) -> object:
    self._keys[self._by_arrival[job_id].job.owner].running[job_id] = 1.0
    return self._by_arrival[job_id]


def fail_and_keep_the_booking(self: ModelLoader, model: str, error: LoadError) -> str:
    self._scheduler.ledger.correct(model, "weights", SIZES[model])
    return self._scheduler.load_failed(model, self._clock(), error).error.message


def cancel_without_marking_the_job(self: Executor, job_id: str) -> None:
    if (running := self.jobs.get(job_id)) is not None:
        for request in running.requests:
            self.lanes[running.model].cancel(request.id)
        self._update_next_step(running.model)


def read_without_booking(self: ModelLoader, model: str) -> None:
    self._scheduler.load_started(model)
    self._device.in_background(lambda: self._read(model))


BUGS = {
    "a busy model is evicted": (eviction, "victims", victims_with_busy_models),
    "a started job stays in the queue": (FairQueue, "take", take_without_removing),
    "a failed load keeps its booking": (ModelLoader, "_failed", fail_and_keep_the_booking),
    "the cancellation of a job is not reported": (Executor, "_cancel", cancel_without_marking_the_job),
    "a model's bytes are not booked while its files are read": (ModelLoader, "read", read_without_booking),
    "memory of other programs counts as free": (
        Ledger, "free_bytes", property(lambda self: max(0, self.usable_bytes - self.booked_bytes)),
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("bug", BUGS)
def test_the_machine_finds_a_seeded_bug(bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, name, mutant = BUGS[bug]
    monkeypatch.setattr(owner, name, mutant)

    with pytest.raises(Exception):  # noqa: B017  # any of the assertions may find it
        run_state_machine_as_test(Machine, settings=settings(QUICK, max_examples=400))
