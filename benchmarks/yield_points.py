"""Measures how long a chat waits for a yield point beside videos, and what runs between two yield points.

    OMP_NUM_THREADS=1 python benchmarks/yield_points.py

Runs the real scheduler, executor and lanes on one thread. Times are the CPU time of this thread, and torch has one
thread, so that a busy machine gives the same figures as an idle one. The other threads of a server (HTTP, encoding of
files) are not included: `chat_under_video.py` measures the whole server.

Bar: the 95th percentiles to the first token and between tokens are at most twice those of an idle server.
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
from pipelines.device import is_out_of_memory
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
LONGEST = 6  # gaps to print
CHAT, VIDEO = "chat", "video"
clock = time.thread_time


class YieldPointGaps:
    """Records the times between two moments at which a chat could have run, and what ran in between."""

    def __init__(self) -> None:
        self.gaps: list[tuple[float, str]] = []
        self.doing = ""
        self._n_points = 0
        self._last = clock()
        self._collected_s = self._collecting = 0.0
        gc.callbacks.append(self._on_garbage)

    def begin(self, doing: str) -> None:
        self.doing, self._n_points, self._last, self._collected_s = doing, 0, clock(), 0.0

    def reached(self, where: str = "") -> None:
        garbage = f", {self._collected_s * 1e3:.0f} ms of it collecting garbage" if self._collected_s > 1e-3 else ""
        self.gaps.append((clock() - self._last, f"{self.doing}, {where or f'part {self._n_points}'}{garbage}"))
        self._n_points += 1
        self._last, self._collected_s = clock(), 0.0

    def _on_garbage(self, phase: str, _: dict[str, int]) -> None:
        if phase == "start":
            self._collecting = clock()
        else:
            self._collected_s += clock() - self._collecting


class Engine:
    """An engine without its thread and inbox. Each call of `turn` carries out one decision of the scheduler."""

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
            is_out_of_memory=is_out_of_memory,
            die=lambda: None,
            warm_up=lambda: None,
        )
        self.yield_points = YieldPointGaps()
        self.executor = Executor(
            self.scheduler,
            device,
            self,
            self,
            step_timeout_s=1e9,
            clock=clock,  # this object is the executor's inbox and outbox
        )
        self.arrives: tuple[float, Job] | None = None  # a chat that is submitted during other work, and when
        self.text_at: dict[str, list[float]] = defaultdict(list)  # job id → when each piece of text came
        self.ended: set[str] = set()
        self.stages: dict[str, str] = {}
        self.steps: dict[str, int] = defaultdict(int)

    def submit(self, job: Job) -> None:
        self.executor.handle(Submit(job, clock()))

    def turn(self) -> bool:
        """Returns False if there is nothing to do."""
        if self.arrives is not None and self.arrives[0] <= clock():
            self.submit(self.arrives[1])
            self.arrives = None
        action = self.scheduler.next_action(clock())
        if isinstance(action, Wait):
            return False
        self.yield_points.begin(type(action).__name__.lower())
        if isinstance(action, Step):
            next_step = self.scheduler.residents[action.model].next_step
            self.yield_points.doing = (
                f"{next_step.stage} {next_step.component} x{next_step.rows}" if next_step else "start of a job"
            )
        self.executor.carry_out(action)
        if not (isinstance(action, Step) and action.model == CHAT):
            self.yield_points.reached("to the end")
        return True

    def run(self, *jobs: Job) -> None:
        for job in jobs:
            self.submit(job)
        while not self.ended.issuperset(job.id for job in jobs):
            assert self.turn()

    def empty(self) -> bool:
        """As the inbox: whether no message waits. A long forward asks this at each place where it can be suspended."""
        self.yield_points.reached()
        return self.arrives is None or self.arrives[0] > clock()

    def put(self, event: Event) -> None:
        """As the outbox: takes an event."""
        match event:
            case JobText(job_id):
                self.text_at[job_id].append(clock())
            case JobProgressed(job_id, stage, step):
                self.stages[job_id], self.steps[job_id] = stage, step
            case JobReplied(job_id) | JobFailed(job_id) | JobCanceled(job_id) | OutputReady(job_id):
                self.ended.add(job_id)

    def clip(self, name: str, i: int, seconds: float, steps: int) -> Job:
        frames = round(seconds * (self.spec.defaults.fps or 8))
        request = common.diffusion_request(self.spec, f"{name}/0", i, steps=steps, num_frames=frames)
        return Job(id=name, owner=f"owner {i}", type="video", model=VIDEO, requests=(request,))

    def talk(self, name: str, i: int, *, delay_s: float = 0.0) -> tuple[float, list[float]]:
        """Runs a chat. Returns the seconds to its first piece of text and those between pieces."""
        # A new prompt each time: the lane caches prompts.
        request = common.chat_request(i, MAX_TOKENS, f"{name}/0", text=f"{name}. ")
        at = clock() + delay_s
        self.arrives = at, Job(id=name, owner="somebody", type="chat", model=CHAT, requests=(request,))
        while name not in self.ended:
            self.turn()
        text_at = self.text_at[name]
        return text_at[0] - at, [b - a for a, b in itertools.pairwise(text_at)]


def show_gaps(report: common.Report, engine: Engine, title: str) -> None:
    gaps = sorted(engine.yield_points.gaps, reverse=True)
    report.add(f"{title}: gaps between yield points", len(gaps))
    report.add(f"{title}: p95", common.percentile((gap for gap, _ in gaps), 0.95) * 1e3, "ms")
    for gap, doing in gaps[:LONGEST]:
        report.add(f"  {doing}", gap * 1e3, "ms")


@contextmanager
def gaps_of(report: common.Report, engine: Engine, title: str) -> Iterator[None]:
    engine.yield_points.gaps.clear()
    yield
    show_gaps(report, engine, title)


def main() -> None:
    arguments = common.arguments(
        __doc__ or "",
        ("--chats", {"type": int, "default": 8, "help": "chats to measure"}),
        ("--seconds", {"type": float, "default": 2.0, "help": "length of a clip"}),
    )
    torch.set_num_threads(1)
    quiet_libraries()
    report, engine = common.Report("yield points for a chat beside videos, CPU seconds"), Engine()
    for k, which in enumerate(("first", "second")):  # the lane measures the memory of the first clip of a shape
        with gaps_of(report, engine, f"one clip, {which} of its shape"):
            engine.run(engine.clip(f"warm {k}", k, arguments.seconds, 3))
    engine.run(*(engine.clip(f"proof {i}", i, arguments.seconds, 3) for i in range(CLIPS)))
    with gaps_of(report, engine, f"{CLIPS} clips"):
        engine.run(*(engine.clip(f"clips {i}", i, arguments.seconds, 3) for i in range(CLIPS)))
    engine.talk("warm chat", 0)
    alone = [engine.talk(f"alone {i}", i) for i in range(arguments.chats)]
    for i in range(CLIPS):
        engine.submit(engine.clip(f"long {i}", i, arguments.seconds, 2000))
    while any(engine.stages.get(f"long {i}") != "denoising" for i in range(CLIPS)):
        engine.turn()
    before, began = sum(engine.steps.values()), clock()
    with gaps_of(report, engine, "chats beside clips"):
        with_clips = [engine.talk(f"beside {i}", i, delay_s=0.3 + 0.07 * i) for i in range(arguments.chats)]
    report.add("denoising steps meanwhile", (sum(engine.steps.values()) - before) / (clock() - began), "/s", least=0.01)
    compare(report, alone, with_clips, f"{CLIPS} denoising clips")
    decoding = []
    for i in range(CLIPS):
        engine.executor.handle(Cancel(f"long {i}"))
    for i in range(arguments.chats):
        clip = engine.clip(f"short {i}", i, arguments.seconds, 1)
        engine.submit(clip)
        while engine.stages.get(clip.id) != "decoding":
            engine.turn()
        decoding.append(engine.talk(f"decoding {i}", i, delay_s=0.02))
    compare(report, alone, decoding, "a decode")
    report.save(arguments.json)


Talks = list[tuple[float, list[float]]]


def compare(report: common.Report, alone: Talks, with_videos: Talks, what: str) -> None:
    for name, pick in (("to the first token", lambda talk: [talk[0]]), ("between tokens", lambda talk: talk[1])):
        idle = [value for talk in alone for value in pick(talk)]
        busy = [value for talk in with_videos for value in pick(talk)]
        for share, label in ((0.5, "median"), (0.95, "p95"), (1.0, "longest")):
            report.add(f"{name}, idle, {label}", common.percentile(idle, share) * 1e3, "ms")
            report.add(f"{name}, beside {what}, {label}", common.percentile(busy, share) * 1e3, "ms")
        ratio = common.percentile(busy, 0.95) / common.percentile(idle, 0.95)
        report.add(f"{name}, p95 beside {what} over idle", ratio, "x", most=2)


if __name__ == "__main__":
    main()
