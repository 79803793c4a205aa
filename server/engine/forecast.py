"""When each job will be done: the policy played forward job by job, without steps. Pure arithmetic; device thread only.

Lanes share the device's seconds; a lane's requests advance together, those at the same stage as quickly as forwards of that width were measured
to be. A job is admitted when its lane has room; a model that is missing comes once idle ones make room for it, or, when its patience and their
slices are over, once the busy ones in its way have drained. Its files are read beside the rest; loading it stops everything. No arrivals are foreseen.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from server.scheduling.fair_queue import AGEING

EPSILON = 1e-6  # of a forward, of a second: what is left of it is nothing
Part: TypeAlias = tuple[str, float]  # stage and shape, how many forwards of it


@dataclass(frozen=True, slots=True)
class Work:
    """A job's requests as the forwards they have still to run, in that order."""

    job_id: str
    model: str
    requests: tuple[tuple[Part, ...], ...]  # of each, at least one
    key: str = ""
    charge_s: float = 0.0  # what it costs its key's turn
    since_s: float = 0.0  # when it came, seconds from now


@dataclass(slots=True)
class ForecastModel:
    """A model, as far as it matters to when jobs end."""

    n_bytes: int
    load_s: float  # while nothing else goes on
    max_running: int
    slice_s: float  # it stays so long with work to do
    patience_s: float  # it waits so long before it closes others' doors
    read_s: float = 0.0  # before that, while the others go on
    row_bytes: int = 0  # that one row of its largest forward holds beside the weights
    is_chat: bool = False
    pinned: bool = False
    since: float | None = None  # seconds from now, negative: when it came; None: not there


@dataclass(slots=True)
class _Running:
    """A request: its job, what it is at, and what follows."""

    job_id: str
    shape: str
    left: float
    then: Iterator[Part]


@dataclass(slots=True)
class _Lane:
    running: list[_Running] = field(default_factory=list)
    waiting: dict[str, deque[Work]] = field(default_factory=dict)  # by key


class Forecast:
    def __init__(
        self,
        models: Mapping[str, ForecastModel],
        usable_bytes: int,
        chat_share: float,
        row_s: Callable[[str, str, int], float],
        tags: Mapping[str, float],
        leave_s: float = 0.0,
        loading: str = "",
    ) -> None:
        """`row_s`: seconds of one row of a forward, by model, stage and shape, and how many requests are at it; `tags`: of the keys, as
        the queue has them; `leave_s`: seconds in which an idle model leaves; `loading`: the model
        whose files are being read.
        """
        self._tags = defaultdict(float, tags)
        self._models = models
        self._usable = usable_bytes
        self._chat_share = chat_share
        self._row_s = row_s
        self._leave_s = leave_s
        self._lanes: dict[str, _Lane] = {}
        self._left: dict[str, int] = {}  # requests, by job
        self._admission_closed: set[str] = set()
        self._promised = ""
        self._loading = loading
        self._read_at = models[loading].read_s if loading else 0.0
        self._now = 0.0
        self._ends: dict[str, float] = {}

    def ends(self, running: Iterable[Work], waiting: Sequence[Work]) -> dict[str, float]:
        """Seconds until each job is done. `waiting` in the order they start where nothing hinders them."""
        for work in running:
            self._lanes.setdefault(work.model, _Lane()).running += _begun(work)
            self._left[work.job_id] = len(work.requests)
        for work in waiting:
            self._lanes.setdefault(work.model, _Lane()).waiting.setdefault(work.key, deque()).append(work)
            self._left[work.job_id] = len(work.requests)
        while len(self._ends) < len(self._left):
            self._admit()
            hindered_until = self._bring_the_next()
            if not self._advance(hindered_until):
                break  # what is left never fits
        return self._ends

    def _admit(self) -> None:
        for model, lane in self._lanes.items():
            prospect = self._models[model]
            if prospect.since is None or model in self._admission_closed:
                continue
            while lane.waiting:
                key = min(lane.waiting, key=lambda key: self._due(lane.waiting[key][0]))
                n = len(lane.waiting[key][0].requests)
                if lane.running and len(lane.running) + n > prospect.max_running:
                    break
                work = lane.waiting[key].popleft()
                if not lane.waiting[key]:
                    del lane.waiting[key]
                self._tags[key] += work.charge_s
                lane.running += _begun(work)

    def _bring_the_next(self) -> float:
        """Bring what can come; returns the moment at which its files are read, or one that cannot yet will close the doors in its way."""
        while True:
            if self._loading:
                if self._now < self._read_at - EPSILON:
                    return self._read_at
                self._now += self._models[self._loading].load_s
                self._models[self._loading].since = self._now
                self._loading = ""
                self._admit()
            missing = [m for m, lane in self._lanes.items() if lane.waiting and self._models[m].since is None]
            missing.sort(key=lambda m: (m != self._promised, self._due_of(m), m))
            until = math.inf
            for model in missing:
                if self._make_room(model):
                    self._loading, self._read_at = model, self._now + self._models[model].read_s
                    self._promised = ""
                    self._admission_closed.clear()
                    self._admit()
                    break
                closes_at = self._close_admission(model)
                until = min(until, closes_at)
                if self._admission_closed:
                    self._promised = model
                    return math.inf
            else:
                return until

    def _make_room(self, model: str) -> bool:
        """Send idle models away, the longest there first, when that suffices."""
        need, free = self._need(model), self._free()
        idle = [m for m, p in self._models.items() if p.since is not None and not p.pinned and not self._runs(m)]
        idle = [m for m in idle if m in self._admission_closed or not self._waits(m)]
        idle.sort(key=lambda m: (self._models[m].since, m))
        if need > free + sum(self._models[m].n_bytes for m in idle):
            return False
        for victim in idle:
            if free >= need:
                break
            free += self._models[victim].n_bytes
            self._now += self._leave_s
            self._models[victim].since = None
        return True

    def _need(self, model: str) -> int:
        """Its bytes, and room for the largest row that it or a running lane may take beside them."""
        beside = max(p.row_bytes for m, p in self._models.items() if m == model or self._runs(m))
        need = self._models[model].n_bytes
        return need if need + beside > self._usable else need + beside

    def _free(self) -> int:
        return self._usable - sum(
            p.n_bytes for m, p in self._models.items() if p.since is not None or m == self._loading
        )

    def _close_admission(self, model: str) -> float:
        """Once `model` has lost patience and enough of those in its way have had their slices; returns when, inf when they are closed."""
        need, free = self._need(model), self._free()
        there = [(m, p) for m, p in self._models.items() if p.since is not None and not p.pinned]
        leaves_at = sorted(((p.since or 0.0) + p.slice_s * (self._runs(m) or self._waits(m)), m) for m, p in there)
        waits_since = min(works[0].since_s for works in self._lanes[model].waiting.values())
        due, chosen = waits_since + self._models[model].patience_s, []
        for moment, victim in leaves_at:
            if free >= need:
                break
            free += self._models[victim].n_bytes
            due = max(due, moment)
            chosen.append(victim)
        if free < need or self._now < due:
            return due if free >= need else math.inf
        self._admission_closed.update(chosen)
        return math.inf

    def _advance(self, until: float) -> bool:
        """To the next end, or `until`. False when nothing moves."""
        working = {m: lane for m, lane in self._lanes.items() if lane.running}
        if not working:
            self._now = until
            return until < math.inf
        pace = self._pace(working)
        step_s = min(min(one.left for one in lane.running) * pace[m] for m, lane in working.items())
        step_s = min(step_s, max(0.0, until - self._now))
        self._now += step_s
        for model, lane in working.items():
            n = step_s / pace[model]
            for one in lane.running:
                one.left -= n
                if one.left <= EPSILON:
                    one.shape, one.left = next(one.then, ("", 0.0))
            for one in lane.running:
                if not one.shape:
                    self._left[one.job_id] -= 1
                    if not self._left[one.job_id]:
                        self._ends[one.job_id] = self._now
            lane.running = [one for one in lane.running if one.shape]
        return True

    def _pace(self, working: Mapping[str, _Lane]) -> dict[str, float]:
        """Seconds in which every request of a lane gets one forward, by model."""
        chats = sum(self._models[m].is_chat for m in working)
        others = len(working) - chats
        pace = {}
        for model, lane in working.items():
            share = self._chat_share if self._models[model].is_chat else 1 - self._chat_share
            share = share if chats and others else 1.0
            mates = chats if self._models[model].is_chat else others
            at = Counter(one.shape for one in lane.running)
            seconds = sum(n * self._row_s(model, shape, n) for shape, n in at.items())
            pace[model] = max(1e-9, seconds * mates / max(share, 1e-3))
        return pace

    def _due(self, work: Work) -> float:
        return self._tags[work.key] + AGEING * work.since_s

    def _due_of(self, model: str) -> float:
        return min(self._due(works[0]) for works in self._lanes[model].waiting.values())

    def _runs(self, model: str) -> bool:
        return model in self._lanes and bool(self._lanes[model].running)

    def _waits(self, model: str) -> bool:
        return model in self._lanes and bool(self._lanes[model].waiting)


def _begun(work: Work) -> list[_Running]:
    begun = []
    for parts in work.requests:
        then = iter(parts)
        shape, left = next(then)
        begun.append(_Running(work.job_id, shape, left, then))
    return begun
