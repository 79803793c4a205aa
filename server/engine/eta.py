"""What a job still has to run, from what such requests ran before. Device thread only; pure arithmetic.

Kept per model and shape: how many forwards of which stage and shape a finished request was in; of chats how many forwards a reply took. What a
forward takes is known by its width (`widths.py`), and what the device thread spends beside them as a factor of the model. `forecast.py` makes of
it when jobs end. Never run to the end: unknown, not guessed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import islice, takewhile

from pipelines.interface import ChatRequest, DiffusionRequest, Request, StepCost
from server.engine.forecast import Forecast, ForecastModel, Part, Work
from server.job import Job
from server.scheduling.residency import SLICE
from server.scheduling.scheduler import Scheduler

FADING = 0.99  # weight of what was known of the seconds beside the forwards when another step ends
MEMORY = 0.3  # weight of the newest reply in the running mean of their lengths
CHAT = "decode decode"  # what the forwards of a chat are measured as: stage and shape


@dataclass(slots=True)
class Spent:
    """What one request has run so far."""

    forwards: Counter[str] = field(default_factory=Counter)  # by stage and shape, in the order they first came
    peak_bytes: int | None = None  # most that one of its forwards held beside the weights


@dataclass(slots=True)
class Estimates:
    _known: dict[tuple[str, str], list[Part]] = field(
        default_factory=dict
    )  # (model, shape) → forwards; of denoising, per step
    _reply: dict[str, float] = field(default_factory=dict)  # chat model → forwards of a reply
    _spent: dict[str, Spent] = field(default_factory=dict)  # by request id
    _turns: dict[str, tuple[float, float]] = field(
        default_factory=dict
    )  # model → seconds of its turns, of forwards in them

    def note(self, costs: Iterable[StepCost]) -> None:
        for cost in costs:
            for request_id in cost.request_ids:
                self._spent.setdefault(request_id, Spent()).forwards[f"{cost.stage} {cost.shape}"] += 1

    def turn_ended(self, model: str, seconds: float, forward_s: float) -> None:
        """A turn of `model` took `seconds`, decision and news included; its forwards took `forward_s` of them."""
        turns, forwards = self._turns.get(model, (0.0, 0.0))
        self._turns[model] = FADING * turns + seconds, FADING * forwards + forward_s

    def drag(self, model: str) -> float:
        """How many times as long as its forwards its turns take; 1 when it never ran."""
        turns, forwards = self._turns.get(model, (0.0, 0.0))
        return max(1.0, turns / forwards) if forwards > 0 else 1.0

    def finished(self, model: str, request: Request) -> None:
        """Learn from a request that ran to its end."""
        spent = self._spent.pop(request.id, None)
        if spent is None:
            return
        if isinstance(request, ChatRequest):
            forwards = spent.forwards.total()
            mean = self._reply.get(model, forwards)
            self._reply[model] = mean + MEMORY * (forwards - mean)
        elif spent.forwards:
            key, ran = (model, shape_of(request)), {_stage(shape) for shape in spent.forwards}
            passed_over = [
                part for part in self._known.get(key, ()) if _stage(part[0]) not in ran
            ]  # its prompt was known
            self._known[key] = passed_over + [
                (stage, n / max(1, request.steps) if _is_denoising(stage) else n) for stage, n in spent.forwards.items()
            ]

    def held(self, request_ids: Iterable[str], n_bytes: int | None) -> None:
        """What a forward of these requests held beside the weights; None: not known."""
        for request_id in request_ids if n_bytes is not None else ():
            spent = self._spent.setdefault(request_id, Spent())
            spent.peak_bytes = max(spent.peak_bytes or 0, n_bytes or 0)

    def peak_bytes(self, request_id: str) -> int | None:
        """None when no forward of it was measured."""
        return self._spent.get(request_id, Spent()).peak_bytes

    def forget(self, request_id: str) -> None:
        self._spent.pop(request_id, None)

    def ahead(self, job: Job) -> tuple[tuple[Part, ...], ...] | None:
        """What its requests have to run yet, of each at least one part; None when its shape on that model was never run to the end."""
        parts = [self._parts(job.model, request) for request in job.requests]
        known = tuple(those for those in parts if those is not None)
        return known if len(known) == len(parts) else None

    def _parts(self, model: str, request: Request) -> tuple[Part, ...] | None:
        spent = self._spent[request.id].forwards if request.id in self._spent else None
        if isinstance(request, ChatRequest):
            mean = self._reply.get(model)
            return None if mean is None else ((CHAT, max(1.0, mean - spent.total() if spent else mean)),)
        known = self._known.get((model, shape_of(request)))
        if known is None:
            return None
        whole = tuple((shape, n * request.steps if _is_denoising(shape) else n) for shape, n in known)
        return _less(whole, spent) if spent else whole


def _less(whole: tuple[Part, ...], spent: Counter[str]) -> tuple[Part, ...]:
    """What is left; nothing but the last stage when all was run. A stage that was passed over, a prompt read before, is none of it."""
    done: Counter[str] = Counter()  # by stage alone: a longer prompt is encoded in another shape
    for shape, n in spent.items():
        done[_stage(shape)] += n
    stages = list(dict.fromkeys(_stage(shape) for shape, _ in whole))
    over = stages[: max((i for i, stage in enumerate(stages) if done[stage]), default=0)]
    left: list[Part] = []
    for shape, total in whole:
        left.append((shape, 0.0 if _stage(shape) in over else max(0.0, total - done[_stage(shape)])))
        done[_stage(shape)] = max(0, done[_stage(shape)] - round(total))
    return tuple(part for part in left if part[1]) or (left[-1],)


def _stage(shape: str) -> str:
    return shape.partition(" ")[0]


def _is_denoising(shape: str) -> bool:
    return shape.startswith("denoising")


def shape_of(request: DiffusionRequest) -> str:
    return f"{request.width}x{request.height}x{request.num_frames or 1}"


FORESEEN = 300  # waiting jobs played forward one by one; those behind follow at the same rate


def etas_s(
    scheduler: Scheduler, estimates: Estimates, running: Sequence[Job], waiting: Sequence[Job], now: float
) -> dict[str, float]:
    """By job id; a job of a shape that was never run to its end has none, and none behind it in the queue. Nor has a chat: nobody knows how long it talks."""
    queue = scheduler.queue

    def coming(job: Job) -> Work | None:
        if (requests := estimates.ahead(job)) is None:
            return None
        return Work(job.id, job.model, requests, job.owner, queue.charge_of(job), queue.since(job.id) - now)

    begun = [Work(job.id, job.model, parts) for job in running if (parts := estimates.ahead(job)) is not None]
    to_come: list[Work] = [
        work for work in takewhile(lambda work: work is not None, map(coming, islice(waiting, FORESEEN))) if work
    ] if len(begun) == len(running) else []  # fmt: skip
    loading = scheduler.residency.loading
    models = {work.model for work in (*begun, *to_come)} | {*scheduler.residents, *([loading.model] if loading else [])}
    tags = {work.key: queue.tag(work.key) for work in to_come}

    @cache
    def row_s(model: str, shape: str, rows: int) -> float:
        key = scheduler.residency.facts_of(model).fingerprint or model
        seconds = scheduler.batch_sizes.expected_row_s(key, shape, rows) or 0.0
        return seconds * estimates.drag(model)

    forecast = Forecast(
        {model: _prospect(scheduler, model, now) for model in sorted(models)},
        scheduler.ledger.usable_bytes,
        scheduler.time_slices.chat_share,
        row_s,
        tags,
        leave_s=scheduler.residency.load_times.leave_s,
        loading=loading.model if loading else "",
    )
    ends = forecast.ends(begun, to_come)
    if len(to_come) == FORESEEN and len(ends) == len(begun) + FORESEEN:
        last = max(ends.values())
        for i, job in enumerate(waiting[FORESEEN:], 1):
            if estimates.ahead(job) is not None:
                ends[job.id] = last * (1 + i / FORESEEN)
    chats = {job.id for job in (*running, *waiting) if job.type == "chat"}
    return {job_id: seconds for job_id, seconds in ends.items() if job_id not in chats}


def _prospect(scheduler: Scheduler, model: str, now: float) -> ForecastModel:
    residency = scheduler.residency
    facts, resident = residency.facts_of(model), scheduler.residents.get(model)
    is_there = resident is not None and not resident.away
    # One that is there would have to be read again, once it had to leave.
    coming_s = residency.load_times.expected_s(model, facts.need_bytes) if is_there else residency.arrival_s(model)
    read_s = coming_s * residency.load_times.read_share(model) if is_there or resident is None else 0.0
    return ForecastModel(
        n_bytes=facts.need_bytes if resident is None else max(1, scheduler.ledger.held_by(model)),
        row_bytes=max(0, scheduler.peaks.one_row(facts.fingerprint or model)),
        load_s=coming_s - read_s,
        read_s=read_s,
        max_running=facts.max_running,
        slice_s=resident.slice_s if resident is not None and is_there else SLICE * coming_s,
        patience_s=scheduler.model_loads.patience_of(model),
        is_chat=facts.type == "chat",
        pinned=residency.is_pinned(model),
        since=resident.since - now if resident is not None and is_there else None,
    )
