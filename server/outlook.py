"""The seconds until each running and waiting job is done, as the policy would have it. Device thread only; pure.

Puts together what was measured (`estimates.py`, `widths.py`), who is where (`residency.py`), and the policy played forward (`forecast.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import islice, takewhile

from server.estimates import Estimates
from server.forecast import Forecast, Prospect, Work
from server.jobs import Job
from server.residency import SLICE
from server.scheduler import Scheduler

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
    arriving = scheduler.residency.arriving
    models = {work.model for work in (*begun, *to_come)} | {*scheduler.residents, *filter(None, [arriving])}
    tags = {work.key: queue.tag(work.key) for work in to_come}

    @cache
    def row_s(model: str, shape: str, rows: int) -> float:
        key = scheduler.residency.facts_of(model).fingerprint or model
        seconds = scheduler.widths.expected_row_s(key, shape, rows) or 0.0
        return seconds * estimates.drag(model)

    forecast = Forecast(
        {model: _prospect(scheduler, model, now) for model in sorted(models)},
        scheduler.ledger.usable_bytes,
        scheduler.turns.chat_share,
        row_s,
        tags,
        leave_s=scheduler.residency.loads.leave_s,
        coming=arriving,
    )
    ends = forecast.ends(begun, to_come)
    if len(to_come) == FORESEEN and len(ends) == len(begun) + FORESEEN:
        last = max(ends.values())
        for i, job in enumerate(waiting[FORESEEN:], 1):
            if estimates.ahead(job) is not None:
                ends[job.id] = last * (1 + i / FORESEEN)
    chats = {job.id for job in (*running, *waiting) if job.type == "chat"}
    return {job_id: seconds for job_id, seconds in ends.items() if job_id not in chats}


def _prospect(scheduler: Scheduler, model: str, now: float) -> Prospect:
    residency = scheduler.residency
    facts, resident = residency.facts_of(model), scheduler.residents.get(model)
    is_there = resident is not None and not resident.away
    # One that is there would have to be read again, once it had to leave.
    coming_s = residency.loads.expected_s(model, facts.need_bytes) if is_there else residency.arrival_s(model)
    read_s = coming_s * residency.loads.read_share(model) if is_there or resident is None else 0.0
    return Prospect(
        n_bytes=facts.need_bytes if resident is None else max(1, scheduler.ledger.held_by(model)),
        row_bytes=max(0, scheduler.peaks.one_row(facts.fingerprint or model)),
        load_s=coming_s - read_s,
        read_s=read_s,
        max_running=facts.max_running,
        slice_s=resident.slice_s if resident is not None and is_there else SLICE * coming_s,
        patience_s=scheduler.arrivals.patience_of(model),
        is_chat=facts.type == "chat",
        pinned=residency.is_pinned(model),
        since=resident.since - now if resident is not None and is_there else None,
    )
