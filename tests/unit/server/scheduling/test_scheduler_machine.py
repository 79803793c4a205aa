"""Whatever happens in whatever order: the ledger tells the truth and stays within the device, every job ends exactly once.

The real scheduler, ledger and carrier over fake lanes on a device that is really full when it is full. Six bugs, put in one at a
time, show that the machine would find them.
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
from server.engine.executor import Executor
from server.engine.model_loader import Device, ModelLoader
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
from tests.support.fake_lane import FakeLane
from tests.support.jobs import job

CAPACITY = 1000
SIZES = {"small": 200, "middle": 400, "large": 600, "chat": 300}
PEAK = 60  # of one row
OWNERS = st.sampled_from("abc")
MODELS = st.sampled_from(sorted(SIZES))


@dataclass
class StrictLane(FakeLane):
    """Says no to a request it runs already, and runs out of memory when the device is really full."""

    world: World | None = None

    def admit(self, request: Request) -> None:
        assert request.id not in self._running, "admitted twice"
        super().admit(request)

    def step(self, max_rows: int | None = None, should_yield: Callable[[], bool] = never_yield) -> object:
        assert self.world is not None
        self.room = max(1, (CAPACITY - self.world.held() - self.world.outside) // PEAK)
        return super().step(max_rows, should_yield)

    def unpark(self, names: Sequence[str]) -> int:
        assert self.world is not None
        self.world.check_room(sum(self.parked[name] for name in names))
        return super().unpark(names)


@dataclass
class EventList:
    """Takes events as an outbox does."""

    events: list[Event]

    def put(self, event: Event) -> None:
        self.events.append(event)


@dataclass
class World:
    """A device with something of its own on it, and a carrier whose actions are asked for one by one."""

    host_bytes: int = 0
    outside: int = 0
    fragmented: int = 0  # bytes that the driver reports as free and that cannot be had
    reads_left: int = -1  # turns until the files of the model that is being loaded are read
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
        self.scheduler.observe(self._read())
        device = Device(
            self._load, self._read, lambda error: False, lambda: None, lambda: None,
            in_background=self._begin_reading,
        )  # fmt: skip
        self.inbox: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self.executor = Executor(
            self.scheduler, device, self.inbox, EventList(self.events), step_timeout_s=9, clock=lambda: self.now
        )

    def check_room(self, n_bytes: int) -> None:
        if self.held() + self.outside + n_bytes > CAPACITY - self.fragmented:
            raise MemoryError("the device is full")

    def held(self) -> int:
        return sum(lane.weight_bytes + lane.cache_bytes for lane in self.lanes.values() if not lane.closed)

    def look(self) -> None:
        self.scheduler.observe(self._read())

    def lanes_open(self) -> bool:
        return any(not lane.closed for lane in self.lanes.values())

    def turn(self) -> bool:
        """One decision, carried out. False when nothing is to be done now."""
        self.look()
        if self.reads_left == 0:
            self.finish_reading()
        self.reads_left -= 1
        while not self.inbox.empty():
            self.executor.handle(self.inbox.get())
        action = self.scheduler.next_action(self.now)
        if isinstance(action, Wait) and self.reads_left >= 0:
            return True
        if isinstance(action, Wait):
            return False
        self.executor.carry_out(action)
        assert self.held() + self.outside <= CAPACITY, "more is held than there is"
        self.now += 0.01
        return True

    def _begin_reading(self, read: Callable[[], None]) -> None:
        self.finish_reading, self.reads_left = read, 2

    @property
    def reading(self) -> str:
        """The model that is being loaded."""
        loading = self.scheduler.residency.loading
        return loading.model if loading is not None else ""

    def promised(self) -> int:
        """Bytes booked for the model whose files are being read."""
        return SIZES[self.reading] if self.reading else 0

    def _facts(self, model: str) -> ModelFacts:
        kind = "chat" if model == "chat" else "image"
        return ModelFacts(model, kind, SIZES[model], 4, 50.0, cache_bytes=100 if kind == "chat" else 0)

    def _load(self, model: str) -> StrictLane:
        assert model == self.reading
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

    def _read(self) -> Reading:
        held = self.held()
        return Reading(free_bytes=CAPACITY - held - self.outside, ours_bytes=held)


class Machine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.wanted: dict[str, int] = {}  # job id → outputs it should give

    @initialize(host_bytes=st.sampled_from([0, 500, 2000]))
    def begin(self, host_bytes: int) -> None:
        self.world = World(host_bytes)

    @rule(model=MODELS, n=st.integers(1, 3), steps=st.integers(1, 4), owner=OWNERS, turns=st.integers(0, 6))
    def submit(self, model: str, n: int, steps: int, owner: str, turns: int) -> None:
        job_id = f"{owner}{len(self.wanted)}"
        self.wanted[job_id] = n
        self.world.executor.handle(Submit(job(job_id, model, n, steps), self.world.now))
        for _ in range(turns):
            self.world.turn()

    @precondition(lambda self: self.wanted)
    @rule(data=st.data(), recall=st.booleans())
    def withdraw(self, data: st.DataObject, recall: bool) -> None:
        job_id = data.draw(st.sampled_from(sorted(self.wanted.keys() - self._ends().keys()) or sorted(self.wanted)))
        self.world.executor.handle(Recall(job_id) if recall else Cancel(job_id))

    @rule(model=MODELS)
    def a_checkpoint_breaks_or_is_mended(self, model: str) -> None:
        self.world.broken ^= {model}

    @rule(n_bytes=st.integers(0, 700))
    def other_programs_take_memory(self, n_bytes: int) -> None:
        self.world.outside = min(n_bytes, CAPACITY - self.world.held() - self.world.promised())
        self.world.look()

    @rule(n_bytes=st.sampled_from([0, 150, 700]))
    def memory_is_fragmented(self, n_bytes: int) -> None:
        self.world.fragmented = n_bytes

    @rule(seconds=st.sampled_from([0.5, 3.0, 15.0, 120.0]))
    def time_goes_by(self, seconds: float) -> None:
        self.world.now += seconds

    @rule(n=st.integers(1, 25))
    def the_device_works(self, n: int) -> None:
        for _ in range(n):
            self.world.turn()

    @rule(model=MODELS, what=st.sampled_from(["load", "unload", "pin", "unpin"]))
    def a_person_says(self, model: str, what: str) -> None:
        messages = {"load": LoadModel(model), "unload": UnloadModel(model)}
        self.world.executor.handle(messages.get(what, Pin(model, what == "pin")))

    @invariant()
    def the_ledger_tells_the_truth_and_stays_within_the_device(self) -> None:
        ledger, held = self.world.scheduler.ledger, self.world.held()
        activations = sum(ledger.held_by(model, "activations") for model in SIZES)
        assert ledger.booked_bytes == held + activations + self.world.promised()
        assert 0 <= ledger.booked_bytes <= CAPACITY
        assert 0 <= ledger.free_bytes <= CAPACITY - held - self.world.outside
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
        """Left alone, with its memory back, the device ends every job and lets go of everything."""
        world = self.world
        world.outside = world.fragmented = 0
        world.broken.clear()
        for model in SIZES:
            world.executor.handle(Pin(model, False))
        for _ in range(1500):
            if not world.turn():
                world.now += 60.0
                if not world.turn() and not world.lanes_open():
                    break
        assert self._ends().keys() == self.wanted.keys(), "a job was lost"
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
        ends.update(job_id for job_id, n in outputs.items() if n >= self.wanted[job_id] and not ends[job_id])
        return ends


QUICK = settings(
    max_examples=300, stateful_step_count=40, deadline=None, derandomize=True, database=None,
    suppress_health_check=list(HealthCheck), phases=[Phase.generate], print_blob=False,
)  # fmt: skip


def test_whatever_happens_the_ledger_is_true_and_every_job_ends_once() -> None:
    run_state_machine_as_test(Machine, settings=QUICK)


def evict_the_busy(candidates: Sequence[Candidate], ledger: Ledger, now: float, *, impatient: bool) -> object:
    for candidate in candidates:
        yield Victim(candidate.name, ledger.held_by(candidate.name), Evict(candidate.name))


def take_but_keep(self: FairQueue, job_id: str) -> object:
    self._keys[self._by_arrival[job_id].job.owner].running[job_id] = 1.0
    return self._by_arrival[job_id]


def fail_without_release(self: ModelLoader, model: str, reason: str) -> str:
    self._scheduler.ledger.correct(model, "weights", SIZES[model])
    return self._scheduler.load_failed(model, self._clock(), reason).reason


def cancel_without_a_note(self: Executor, job_id: str) -> None:
    if (found := self.jobs.get(job_id)) is not None:
        for request in found.requests:
            self.lanes[found.model].cancel(request.id)
        self._update_next_step(found.model)


def load_and_forget_the_booking(self: ModelLoader, model: str) -> None:
    self._scheduler.load_started(model)
    self._device.in_background(lambda: self._read(model))


BUGS = {
    "a busy model is evicted": (eviction, "victims", evict_the_busy),
    "a started job stays in the queue": (FairQueue, "take", take_but_keep),
    "a failed load keeps its booking": (ModelLoader, "_failed", fail_without_release),
    "a canceled job is told to nobody": (Executor, "_cancel", cancel_without_a_note),
    "a model's bytes are not booked while its files are read": (ModelLoader, "read", load_and_forget_the_booking),
    "what others hold counts as free": (
        Ledger, "free_bytes", property(lambda self: max(0, self.usable_bytes - self.booked_bytes)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("bug", BUGS)
def test_the_machine_finds_a_seeded_bug(bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, name, mutant = BUGS[bug]
    monkeypatch.setattr(owner, name, mutant)

    with pytest.raises(Exception):  # noqa: B017  # whichever assertion it trips
        run_state_machine_as_test(Machine, settings=settings(QUICK, max_examples=400))
