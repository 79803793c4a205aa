"""Runs a trace through the real scheduler with fake lanes and a simulated clock, without a thread or a device."""

from __future__ import annotations

import math
import time
from collections import deque
from dataclasses import dataclass, field
from typing import assert_never

from pipelines.chat_interface import ChatRequest, Prompt
from pipelines.diffusion_interface import DiffusionRequest
from pipelines.interface import NextStep, Request, StepCost
from scripts.simulation.outcome import Outcome
from scripts.simulation.traces import SimJob, SimModel, Trace
from server.engine.learning import learn
from server.job import Job
from server.memory.ledger import Ledger
from server.protocol import FilesRead
from server.scheduling.actions import Admit, Evict, Load, ModelFacts, Park, Read, ResizeCache, Step, Unpark, Wait
from server.scheduling.scheduler import Scheduler

READ_SHARE = 0.5  # share of the load time spent reading files, while the device runs other models
COPY_SHARE = 0.1  # time to unpark (copy back from host memory), as a share of the load time


@dataclass(slots=True)
class SimLane:
    """A fake lane. Each request encodes, takes its steps and decodes; all requests at one stage share a forward.

    The stage of the request that has waited longest runs next.
    """

    model: SimModel
    waiting: deque[str] = field(default_factory=deque)  # request ids; the first has waited longest
    done: dict[str, int] = field(default_factory=dict)  # request id → finished forwards
    left_s: float = 0.0  # rest of a forward that was preempted
    merged: tuple[str, ...] = ()  # request ids in the current forward

    def next_step(self) -> NextStep | None:
        if not self.waiting:
            return None
        first = self._stage(self.waiting[0])
        same = tuple(request_id for request_id in self.waiting if self._stage(request_id) == first)
        if first == "encoding":
            return NextStep("model", "encode", "encoding", "77", 77, len(same), same)
        if first == "decoding":
            return NextStep("model", "decode", "decoding", "512x512x1", 1, len(same), same)
        stage, shape = ("decode", "decode") if self.model.type == "chat" else ("denoising", "512x512x1")
        return NextStep("model", "forward", stage, shape, 1, len(same), same)

    def _stage(self, request_id: str) -> str:
        done = self.done[request_id]
        return "encoding" if done == 0 else "decoding" if done > self.model.steps else "denoising"


class Simulator:
    """Carries out the scheduler's actions as the engine does, reports the results, and advances the clock `now`."""

    def __init__(
        self, trace: Trace, *, patience_s: float = 10.0, min_residency_s: float = 2.0, max_step_s: float = 4.0
    ) -> None:
        self.trace = trace
        self.scheduler = Scheduler(
            Ledger(name="sim", capacity_bytes=trace.capacity_bytes, host_bytes=trace.host_bytes),
            self._facts,
            patience_s=patience_s,
            min_residency_s=min_residency_s,
            max_step_s=max_step_s,
            reads_ahead=True,
        )
        self._reading: FilesRead | None = None  # sent when the files of the loading model have been read
        self._read_at: float | None = None
        self.lanes: dict[str, SimLane] = {}
        self.outcome = Outcome("ours")
        self.now = 0.0
        self._arrivals = deque(trace.jobs)

    def run(self) -> Outcome:
        while len(self.outcome.ended) < len(self.trace.jobs):
            self.take_arrivals()
            self.turn()
        return self.outcome

    def take_arrivals(self) -> None:
        while self._arrivals and self._arrivals[0].at <= self.now:
            job = self._arrivals.popleft()
            self.scheduler.add(engine_job(job, self.trace.models[job.model]), job.at)
            self.arrived(job)

    def arrived(self, job: SimJob) -> None:
        """Hook for subclasses: a job was added to the scheduler."""

    def ended(self, job_id: str) -> None:
        self.outcome.ended[job_id] = self.now

    def turn(self) -> None:
        if self._reading is not None and self._read_at is not None and self._read_at <= self.now:
            self.scheduler.handle(self._reading, self.now)
            self._reading = self._read_at = None
        began = time.perf_counter()
        action = self.scheduler.next_action(self.now)
        self.outcome.decision_s.append(time.perf_counter() - began)
        match action:
            case Read(model):
                self.scheduler.ledger.book(model, "weights", self.trace.models[model].weight_bytes)
                self.scheduler.load_started(model)
                self._reading = FilesRead(model, READ_SHARE * self.trace.models[model].load_s)
                self._read_at = self.now + self._reading.seconds
            case Load(model):
                self._load(model)
            case Evict(model):
                del self.lanes[model]
                self.scheduler.ledger.release(model)
                self.scheduler.evicted(model)
                self.outcome.evictions += 1
            case Park(model, _):
                self.scheduler.placed(model, {}, {"model": self.trace.models[model].weight_bytes})
                self.outcome.evictions += 1
            case Unpark(model, _):
                self.now += COPY_SHARE * self.trace.models[model].load_s
                self.scheduler.placed(model, {"model": self.trace.models[model].weight_bytes}, {})
                self.scheduler.unparked(model, self.now, COPY_SHARE * self.trace.models[model].load_s)
            case ResizeCache(model, n_bytes):
                self.scheduler.cache_resized(model, self.now, n_bytes, n_bytes)
            case Admit(job):
                self._admit(job)
            case Step(model, max_rows, reserve_bytes):
                self._step(model, max_rows, reserve_bytes)
            case Wait(until):
                arrival = self._arrivals[0].at if self._arrivals else None
                moments = [moment for moment in (until, arrival, self._read_at) if moment is not None]
                assert moments, "the scheduler waits for ever although jobs are left"
                self.now = max(self.now, min(moments))
            case _:
                assert_never(action)
        assert 0 <= self.scheduler.ledger.booked_bytes <= self.trace.capacity_bytes

    def _facts(self, name: str) -> ModelFacts:
        model = self.trace.models[name]
        return ModelFacts(name, model.type, model.weight_bytes, model.max_running, keep_alive_s=300.0)

    def _load(self, name: str) -> None:
        model = self.trace.models[name]
        self.now += (1 - READ_SHARE) * model.load_s
        self.outcome.loads += 1
        self.lanes[name] = SimLane(model)
        self.scheduler.ledger.release(name)
        self.scheduler.loaded(name, self.now, model.load_s)
        self.scheduler.placed(name, {"model": model.weight_bytes}, {})

    def _admit(self, job: Job) -> None:
        self.scheduler.admitted(job, self.now)
        self.outcome.started[job.id] = self.now
        lane = self.lanes[job.model]
        lane.waiting.append(job.requests[0].id)
        lane.done[job.requests[0].id] = 0
        self._look(job.model)

    def _step(self, name: str, max_rows: int | None, reserve_bytes: int) -> None:
        lane, ledger = self.lanes[name], self.scheduler.ledger
        if reserve_bytes:
            ledger.book(name, "activations", reserve_bytes)
        next_step = lane.next_step()
        assert next_step is not None
        if not lane.merged:
            lane.merged = next_step.request_ids[: max_rows or next_step.rows]
            lane.left_s = lane.model.forward_s(len(lane.merged))
        seconds = self._until_preempted(lane)
        self.now += seconds
        lane.left_s -= seconds
        self.outcome.busy_s += seconds
        if lane.left_s > 1e-9:
            self.scheduler.stepped(name, self.now, seconds)
            self._look(name)
            return
        self._finish_forward(name, lane, next_step, seconds)

    def _until_preempted(self, lane: SimLane) -> float:
        """Returns the seconds for which the forward runs: to its end, or to the first block after a chat is due."""
        next_arrival_in_s = self._arrivals[0].at - self.now if self._arrivals else math.inf
        preempt_in_s = min(self.scheduler.chat_due_in_s, next_arrival_in_s)
        if lane.model.blocks == 1 or preempt_in_s == math.inf:
            return lane.left_s
        block_s = lane.model.forward_s(len(lane.merged)) / lane.model.blocks
        blocks = max(1, math.ceil(preempt_in_s / block_s))
        return min(blocks * block_s, lane.left_s)

    def _finish_forward(self, name: str, lane: SimLane, next_step: NextStep, seconds: float) -> None:
        merged, lane.merged, lane.left_s = lane.merged, (), 0.0
        rows = len(merged)
        self.scheduler.ledger.release(name, "activations")
        cost = StepCost(
            next_step.shape, rows, lane.model.forward_s(rows), merged, next_step.stage, next_step.component,
            next_step.entry, next_step.units, lane.model.row_bytes * rows,
        )  # fmt: skip
        scheduler = self.scheduler
        used = learn([cost], name, scheduler.ledger.free_bytes, scheduler.peaks, scheduler.batch_sizes)
        shares = {request_id.split("/")[0]: device_s for request_id, device_s in used.items()}
        scheduler.stepped(name, self.now, seconds, shares)
        self.learned(name, cost)
        for request_id in merged:
            lane.waiting.remove(request_id)
            lane.done[request_id] += 1
            if lane.done[request_id] < lane.model.steps + 2:
                lane.waiting.append(request_id)
            else:
                del lane.done[request_id]
                job_id = request_id.split("/")[0]
                scheduler.request_ended(job_id, name)
                self.ended(job_id)
        self._look(name)

    def learned(self, name: str, cost: StepCost) -> None:
        """Hook for subclasses: a forward finished with this cost."""

    def _look(self, name: str) -> None:
        lane = self.lanes[name]
        self.scheduler.expects(name, lane.next_step(), bool(lane.merged))


def engine_job(job: SimJob, model: SimModel) -> Job:
    request: Request
    if model.type == "chat":
        request = ChatRequest(id=f"{job.id}/0", prompt=Prompt(tokens=(1,)), max_tokens=model.steps)
    else:
        request = DiffusionRequest(
            id=f"{job.id}/0", prompt="", negative_prompt=None, width=512, height=512, num_frames=None,
            steps=model.steps, guidance_scale=None, seed=0,
        )  # fmt: skip
    return Job(id=job.id, owner=job.key, type=model.type, model=job.model, requests=(request,))
