"""Estimates when jobs end, from the forwards that finished requests ran. Device thread only; pure arithmetic.

`Estimates` learns per model and shape how many forwards of each stage a finished request took part in, and how many
forwards a chat's reply takes. The seconds of a forward come from `BatchSizes`; what the device thread spends beside the
forwards is a factor of the model. `eta_seconds` hands both to `Forecast`, which plays the policy forward. A shape that
never ran to its end has no estimate.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import islice

from pipelines.chat_interface import ChatRequest
from pipelines.embedding.queue import padded_width, shape_of_width
from pipelines.embedding_interface import EmbeddingRequest
from pipelines.interface import Request, StepCost
from server.engine.forecast import Forecast, ForecastModel, Forwards, RemainingWork
from server.job import Job
from server.scheduling.residency import SLICE
from server.scheduling.scheduler import Scheduler

TURN_DECAY = 0.99  # weight of the old sums when another turn ends
REPLY_WEIGHT = 0.3  # exponential moving average of the length of replies: weight of the newest one
CHAT_FORWARD = "decode decode"  # stage and shape of a chat's forwards, as they are measured
FORECAST_JOBS = 300  # waiting jobs that are forecast one by one; those behind are assumed to end at the same rate


@dataclass(slots=True)
class RequestUsage:
    """What one running request has used so far."""

    forwards: Counter[str] = field(default_factory=Counter)  # by stage and shape, in the order of their first forward
    peak_bytes: int | None = None  # most that one of its forwards held beside the weights


@dataclass(slots=True)
class Estimates:
    # (model, shape) → forwards of a finished request; denoising forwards are per step.
    _known: dict[tuple[str, str], list[Forwards]] = field(default_factory=dict)
    _reply_forwards: dict[str, float] = field(default_factory=dict)  # by chat model
    _widths: dict[str, set[int]] = field(default_factory=dict)  # by embedding model: widths of texts that have run
    _usage: dict[str, RequestUsage] = field(default_factory=dict)  # by request id
    # Model → seconds of its turns, and of the forwards in them.
    _turns: dict[str, tuple[float, float]] = field(default_factory=dict)

    def record(self, costs: Iterable[StepCost]) -> None:
        """Count finished forwards for the requests that shared them."""
        for cost in costs:
            for request_id in cost.request_ids:
                self._usage.setdefault(request_id, RequestUsage()).forwards[f"{cost.stage} {cost.shape}"] += 1

    def record_peak(self, request_ids: Iterable[str], n_bytes: int | None) -> None:
        """Learn what a forward of these requests held beside the weights; None: unknown."""
        for request_id in request_ids if n_bytes is not None else ():
            usage = self._usage.setdefault(request_id, RequestUsage())
            usage.peak_bytes = max(usage.peak_bytes or 0, n_bytes or 0)

    def turn_ended(self, model: str, seconds: float, forward_s: float) -> None:
        """Learn that a turn of `model` took `seconds`, of which its forwards took `forward_s`."""
        turns, forwards = self._turns.get(model, (0.0, 0.0))
        self._turns[model] = TURN_DECAY * turns + seconds, TURN_DECAY * forwards + forward_s

    def overhead_factor(self, model: str) -> float:
        """Returns how many times as long the model's turns take as the forwards in them; 1 when it never ran."""
        turns, forwards = self._turns.get(model, (0.0, 0.0))
        return max(1.0, turns / forwards) if forwards > 0 else 1.0

    def finished(self, model: str, request: Request) -> None:
        """Learn from a request that ran to its end."""
        usage = self._usage.pop(request.id, None)
        if usage is None:
            return
        if isinstance(request, ChatRequest):
            forwards = usage.forwards.total()
            mean = self._reply_forwards.get(model, forwards)
            self._reply_forwards[model] = mean + REPLY_WEIGHT * (forwards - mean)
        elif isinstance(request, EmbeddingRequest):
            self._widths.setdefault(model, set()).update(padded_width(len(text.tokens)) for text in request.texts)
        elif usage.forwards:
            key, ran = (model, request.shape), {_stage(shape) for shape in usage.forwards}
            # A stage that did not run this time is kept: the prompt's encoding came from the cache.
            skipped = [forwards for forwards in self._known.get(key, ()) if _stage(forwards[0]) not in ran]
            self._known[key] = skipped + [
                (shape, n / max(1, request.computed_steps) if _is_denoising(shape) else n)
                for shape, n in usage.forwards.items()
            ]

    def peak_bytes(self, request_id: str) -> int | None:
        """Returns the most that a forward of the request held beside the weights; None when none was measured."""
        return self._usage.get(request_id, RequestUsage()).peak_bytes

    def forget(self, request_id: str) -> None:
        self._usage.pop(request_id, None)

    def remaining(self, job: Job) -> tuple[tuple[Forwards, ...], ...] | None:
        """Returns the forwards that each request of the job still has to run, at least one entry for each request.

        None when the job's shape never ran to its end on that model.
        """
        of_requests = [self._remaining_of(job.model, request) for request in job.requests]
        known = tuple(forwards for forwards in of_requests if forwards is not None)
        return known if len(known) == len(of_requests) else None

    def _remaining_of(self, model: str, request: Request) -> tuple[Forwards, ...] | None:
        ran = self._usage[request.id].forwards if request.id in self._usage else None
        if isinstance(request, ChatRequest):
            mean = self._reply_forwards.get(model)
            return None if mean is None else ((CHAT_FORWARD, max(1.0, mean - ran.total() if ran else mean)),)
        if isinstance(request, EmbeddingRequest):
            return _texts_left(request, self._widths.get(model, set()), ran.total() if ran else 0)
        known = self._known.get((model, request.shape))
        if known is None:
            return None
        total = tuple((shape, n * request.computed_steps if _is_denoising(shape) else n) for shape, n in known)
        return _subtract(total, ran) if ran else total


def _subtract(total: tuple[Forwards, ...], ran: Counter[str]) -> tuple[Forwards, ...]:
    """Returns `total` less the forwards that ran; the last entry with 0 forwards when all ran.

    Stages are compared without their shapes, because a longer prompt is encoded in another shape. A stage that was
    skipped because its result was cached, and that a later stage has followed, does not remain.
    """
    ran_by_stage: Counter[str] = Counter()
    for shape, n in ran.items():
        ran_by_stage[_stage(shape)] += n
    stages = list(dict.fromkeys(_stage(shape) for shape, _ in total))
    passed = stages[: max((i for i, stage in enumerate(stages) if ran_by_stage[stage]), default=0)]
    remaining: list[Forwards] = []
    for shape, n_total in total:
        stage = _stage(shape)
        remaining.append((shape, 0.0 if stage in passed else max(0.0, n_total - ran_by_stage[stage])))
        ran_by_stage[stage] = max(0, ran_by_stage[stage] - round(n_total))
    return tuple(forwards for forwards in remaining if forwards[1]) or (remaining[-1],)


def _texts_left(request: EmbeddingRequest, known: Collection[int], n_ran: int) -> tuple[Forwards, ...] | None:
    """Returns the forwards that an embedding still has to run: a part of one for each text, which others share.

    A text of a width that never ran counts as more or less than one of the nearest width that did. None: none did.
    """
    if not known:
        return None
    texts: Counter[int] = Counter(padded_width(len(text.tokens)) for text in request.texts)
    left = max(0.0, 1 - n_ran / len(request.texts))
    forwards: dict[str, float] = {}
    for width, n_texts in texts.items():
        nearest = min(known, key=lambda other: abs(other - width))
        shape = f"encoding {shape_of_width(nearest)}"
        forwards[shape] = forwards.get(shape, 0.0) + left * n_texts * width / nearest
    return tuple(forwards.items())


def _stage(shape: str) -> str:
    return shape.partition(" ")[0]


def _is_denoising(shape: str) -> bool:
    return shape.startswith("denoising")


def eta_seconds(
    scheduler: Scheduler, estimates: Estimates, running: Sequence[Job], waiting: Sequence[Job], now: float
) -> dict[str, float]:
    """Returns the seconds until each job ends, by job id.

    A job of a shape that never ran to its end is left out, and so are all jobs behind it in the queue. Chats are left
    out too: the length of a reply is not known before its end.
    """
    queue = scheduler.queue
    running_work = [
        RemainingWork(job.id, job.model, requests)
        for job in running
        if (requests := estimates.remaining(job)) is not None
    ]
    waiting_work: list[RemainingWork] = []
    if len(running_work) == len(running):
        for job in islice(waiting, FORECAST_JOBS):
            if (requests := estimates.remaining(job)) is None:
                break
            since_s = queue.since(job.id) - now
            waiting_work.append(RemainingWork(job.id, job.model, requests, job.owner, queue.charge_of(job), since_s))
    loading = scheduler.residency.loading
    models = {work.model for work in (*running_work, *waiting_work)} | {*scheduler.residents}
    if loading is not None:
        models.add(loading.model)

    @cache
    def s_per_row(model: str, shape: str, rows: int) -> float:
        key = scheduler.residency.facts_of(model).fingerprint or model
        seconds = scheduler.batch_sizes.expected_s_per_row(key, shape, rows) or 0.0
        return seconds * estimates.overhead_factor(model)

    forecast = Forecast(
        {model: _forecast_model(scheduler, model, now) for model in sorted(models)},
        scheduler.ledger.usable_bytes,
        scheduler.time_slices.chat_share,
        s_per_row,
        {work.key: queue.tag(work.key) for work in waiting_work},
        eviction_s=scheduler.residency.load_times.eviction_s,
        loading=loading.model if loading else "",
    )
    ends = forecast.run(running_work, waiting_work)
    if len(waiting_work) == FORECAST_JOBS and len(ends) == len(running_work) + FORECAST_JOBS:
        last = max(ends.values())
        for i, job in enumerate(waiting[FORECAST_JOBS:], 1):
            if estimates.remaining(job) is not None:
                ends[job.id] = last * (1 + i / FORECAST_JOBS)
    chats = {job.id for job in (*running, *waiting) if job.type == "chat"}
    return {job_id: seconds for job_id, seconds in ends.items() if job_id not in chats}


def _forecast_model(scheduler: Scheduler, model: str, now: float) -> ForecastModel:
    residency = scheduler.residency
    facts, resident = residency.facts_of(model), scheduler.residents.get(model)
    is_ready = resident is not None and not resident.to_unpark
    if is_ready:  # if the forecast evicts it, it has to be loaded again
        ready_s = residency.load_times.expected_s(model, facts.need_bytes)
    else:
        ready_s = residency.time_to_ready_s(model)
    read_s = ready_s * residency.load_times.read_share(model) if is_ready or resident is None else 0.0
    return ForecastModel(
        n_bytes=facts.need_bytes if resident is None else max(1, scheduler.ledger.held_by(model)),
        row_bytes=max(0, scheduler.peaks.max_row_bytes(facts.fingerprint or model)),
        load_s=ready_s - read_s,
        read_s=read_s,
        max_running=facts.max_running,
        slice_s=resident.slice_s if resident is not None and is_ready else SLICE * ready_s,
        patience_s=scheduler.model_loads.patience_of(model),
        is_chat=facts.type == "chat",
        pinned=residency.is_pinned(model),
        since_s=resident.since - now if resident is not None and is_ready else None,
    )
