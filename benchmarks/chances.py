"""How long a chat waits for its chance beside videos, and what ran meanwhile. The real scheduler, carrier and lanes on one thread.

Time is that thread's own CPU time and torch has one thread, so that a busy machine says the same as a quiet one. What other
threads of a server do (HTTP, encoding of files) is not in it: `chat_under_video.py` has all of it.

Bar of the plan: the 95th percentile to the first token and between tokens at most twice that of the idle server.
"""

from __future__ import annotations

import gc
import itertools
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import common
import torch

from models.loading.load import load, quiet_libraries
from server.engine.executor import Executor
from server.engine.model_loader import Device
from server.job import Job
from server.memory.ledger import Ledger
from server.process.settings import Settings
from server.protocol import (
    Cancel,
    Event,
    JobCanceled,
    JobFailed,
    JobProgressed,
    JobReplied,
    JobText,
    OutputReady,
    Submit,
)
from server.scheduling.actions import ModelFacts, Step, Wait
from server.scheduling.scheduler import Scheduler

CLIPS = 4
MAX_TOKENS = 32
LONGEST = 6  # gaps that are shown
CHAT, VIDEO = "chat", "video"
clock = time.thread_time


class Chances:
    """The gaps between two moments at which a chat could have run, by what ran in between."""

    def __init__(self) -> None:
        self.gaps: list[tuple[float, str]] = []
        self.doing = ""
        self._asked = 0
        self._last = clock()
        self._collected_s = self._collecting = 0.0
        gc.callbacks.append(self._on_garbage)

    def begin(self, doing: str) -> None:
        self.doing, self._asked, self._last, self._collected_s = doing, 0, clock(), 0.0

    def chance(self, where: str = "") -> None:
        garbage = f", {self._collected_s * 1e3:.0f} ms of it collecting garbage" if self._collected_s > 1e-3 else ""
        self.gaps.append((clock() - self._last, f"{self.doing}, {where or f'part {self._asked}'}{garbage}"))
        self._asked += 1
        self._last, self._collected_s = clock(), 0.0

    def _on_garbage(self, phase: str, _: dict[str, int]) -> None:
        if phase == "start":
            self._collecting = clock()
        else:
            self._collected_s += clock() - self._collecting


class Engine:
    """An engine without its thread and its inbox: `turn` is one decision."""

    def __init__(self) -> None:
        video = common.built_in("video")
        assert video is not None, "there is no built-in video model"
        specs = {VIDEO: replace(video, name=VIDEO), CHAT: replace(common.catalogue().get(common.CHAT), name=CHAT)}
        self.spec = specs[VIDEO]
        self.scheduler = Scheduler(
            Ledger(name="cpu", capacity_bytes=8 << 30),
            lambda name: ModelFacts(name, specs[name].type, specs[name].weight_bytes, 8, 1e9),
            chat_share=Settings.model_fields["chat_share"].default,
        )
        device = Device(
            load=lambda name: load(specs[name], device="cpu"),
            read_memory=lambda: None,
            is_fatal=lambda error: False,
            die=lambda: None,
            warm_up=lambda: None,
        )
        self.chances = Chances()
        self.executor = Executor(
            self.scheduler,
            device,
            self,
            self,
            step_timeout_s=1e9,
            clock=clock,  # it is its own inbox and outbox
        )
        self.arrives: tuple[float, Job] | None = None  # from when on
        self.came: dict[str, list[float]] = defaultdict(list)
        self.ended: set[str] = set()
        self.stages: dict[str, str] = {}
        self.steps: dict[str, int] = defaultdict(int)

    def submit(self, job: Job) -> None:
        self.executor.handle(Submit(job, clock()))

    def turn(self) -> bool:
        """False when there is nothing to do."""
        if self.arrives is not None and self.arrives[0] <= clock():
            self.submit(self.arrives[1])
            self.arrives = None
        action = self.scheduler.next_action(clock())
        if isinstance(action, Wait):
            return False
        self.chances.begin(type(action).__name__.lower())
        if isinstance(action, Step):
            next_step = self.scheduler.residents[action.model].next_step
            self.chances.doing = (
                f"{next_step.stage} {next_step.component} x{next_step.rows}" if next_step else "start of a job"
            )
        self.executor.carry_out(action)
        if not (isinstance(action, Step) and action.model == CHAT):
            self.chances.chance("to the end")
        return True

    def run(self, *jobs: Job) -> None:
        for job in jobs:
            self.submit(job)
        while not self.ended.issuperset(job.id for job in jobs):
            assert self.turn()

    def empty(self) -> bool:
        """As the inbox: whether no message waits. A long forward asks this at each place where it can be suspended."""
        self.chances.chance()
        return self.arrives is None or self.arrives[0] > clock()

    def put(self, event: Event) -> None:
        """As the outbox: takes an event."""
        match event:
            case JobText(job_id):
                self.came[job_id].append(clock())
            case JobProgressed(job_id, stage, step):
                self.stages[job_id], self.steps[job_id] = stage, step
            case JobReplied(job_id) | JobFailed(job_id) | JobCanceled(job_id) | OutputReady(job_id):
                self.ended.add(job_id)

    def clip(self, name: str, i: int, seconds: float, steps: int) -> Job:
        frames = round(seconds * (self.spec.defaults.fps or 8))
        request = common.diffusion_request(self.spec, f"{name}/0", i, steps=steps, num_frames=frames)
        return Job(id=name, owner=f"owner {i}", type="video", model=VIDEO, requests=(request,))

    def talk(self, name: str, i: int, *, delay_s: float = 0.0) -> tuple[float, list[float]]:
        """To the first piece of text, between pieces."""
        request = common.chat_request(i, MAX_TOKENS, f"{name}/0")
        said = replace(
            request.messages[0], content=f"{name}. {request.messages[0].content}"
        )  # no prompt is in the cache
        request = replace(request, messages=(said,))
        at = clock() + delay_s
        self.arrives = at, Job(id=name, owner="somebody", type="chat", model=CHAT, requests=(request,))
        while name not in self.ended:
            self.turn()
        came = self.came[name]
        return came[0] - at, [b - a for a, b in itertools.pairwise(came)]


def show_gaps(report: common.Report, engine: Engine, title: str) -> None:
    gaps = sorted(engine.chances.gaps, reverse=True)
    report.add(f"{title}: gaps between chances", len(gaps))
    report.add(f"{title}: p95", common.percentile((gap for gap, _ in gaps), 0.95) * 1e3, "ms")
    for gap, doing in gaps[:LONGEST]:
        report.add(f"  {doing}", gap * 1e3, "ms")


@contextmanager
def gaps_of(report: common.Report, engine: Engine, title: str) -> Iterator[None]:
    engine.chances.gaps.clear()
    yield
    show_gaps(report, engine, title)


def main() -> None:
    said = common.arguments(
        __doc__ or "",
        ("--chats", {"type": int, "default": 8}),
        ("--seconds", {"type": float, "default": 2.0, "help": "of a clip"}),
    )
    torch.set_num_threads(1)
    quiet_libraries()
    report, engine = common.Report("chances of a chat beside videos, CPU seconds"), Engine()
    for k, which in enumerate(("first", "second")):  # the first of its shape is measured
        with gaps_of(report, engine, f"one clip, {which} of its shape"):
            engine.run(engine.clip(f"warm {k}", k, said.seconds, 3))
    engine.run(*(engine.clip(f"proof {i}", i, said.seconds, 3) for i in range(CLIPS)))
    with gaps_of(report, engine, f"{CLIPS} clips"):
        engine.run(*(engine.clip(f"clips {i}", i, said.seconds, 3) for i in range(CLIPS)))
    engine.talk("warm chat", 0)
    alone = [engine.talk(f"alone {i}", i) for i in range(said.chats)]
    for i in range(CLIPS):
        engine.submit(engine.clip(f"long {i}", i, said.seconds, 2000))
    while any(engine.stages.get(f"long {i}") != "denoising" for i in range(CLIPS)):
        engine.turn()
    before, began = sum(engine.steps.values()), clock()
    with gaps_of(report, engine, "chats beside clips"):
        beside = [engine.talk(f"beside {i}", i, delay_s=0.3 + 0.07 * i) for i in range(said.chats)]
    report.add("denoising steps meanwhile", (sum(engine.steps.values()) - before) / (clock() - began), "/s", least=0.01)
    compare(report, alone, beside, f"{CLIPS} denoising clips")
    decoding = []
    for i in range(CLIPS):
        engine.executor.handle(Cancel(f"long {i}"))
    for i in range(said.chats):
        clip = engine.clip(f"short {i}", i, said.seconds, 1)
        engine.submit(clip)
        while engine.stages.get(clip.id) != "decoding":
            engine.turn()
        decoding.append(engine.talk(f"decoding {i}", i, delay_s=0.02))
    compare(report, alone, decoding, "a decode")
    report.save(said.json)


Talks = list[tuple[float, list[float]]]


def compare(report: common.Report, alone: Talks, beside: Talks, what: str) -> None:
    for name, pick in (("to the first token", lambda talk: [talk[0]]), ("between tokens", lambda talk: talk[1])):
        idle = [value for talk in alone for value in pick(talk)]
        busy = [value for talk in beside for value in pick(talk)]
        for share, called in ((0.5, "median"), (0.95, "p95"), (1.0, "longest")):
            report.add(f"{name}, idle, {called}", common.percentile(idle, share) * 1e3, "ms")
            report.add(f"{name}, beside {what}, {called}", common.percentile(busy, share) * 1e3, "ms")
        ratio = common.percentile(busy, 0.95) / common.percentile(idle, 0.95)
        report.add(f"{name}, p95 beside {what} over idle", ratio, "x", most=2)


if __name__ == "__main__":
    main()
