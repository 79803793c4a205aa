"""When each job will be done: the policy played forward job by job, without steps. Pure arithmetic; device thread only.

Lanes share the device's seconds; a lane's jobs advance together, as quickly as forwards of that width were measured to be. A job is
admitted when its lane has room; a model that is missing comes once idle ones make room for it, or, when its patience and their slices are
over, once the busy ones in its way have drained. Loads stop everything. No arrivals are foreseen.
"""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from server.queue import AGEING


@dataclass(frozen=True, slots=True)
class Work:
    """A job's requests as forwards still to run."""

    job_id: str
    model: str
    shape: str
    forwards: tuple[float, ...]  # by request
    key: str = ""
    charge_s: float = 0.0  # what it costs its key's turn
    since_s: float = 0.0  # when it came, seconds from now


@dataclass(slots=True)
class Prospect:
    """A model, as far as it matters to when jobs end."""

    n_bytes: int
    load_s: float
    max_running: int
    slice_s: float  # it stays so long with work to do
    patience_s: float  # it waits so long before it closes others' doors
    is_chat: bool = False
    pinned: bool = False
    since: float | None = None  # seconds from now, negative: when it came; None: not there
    asked: float = 0.0  # likewise: since when work waits for it


@dataclass(slots=True)
class _Lane:
    running: list[tuple[float, Work]] = field(default_factory=list)  # forwards left of a request, its job
    waiting: dict[str, deque[Work]] = field(default_factory=dict)  # by key


class Forecast:
    def __init__(
        self,
        prospects: Mapping[str, Prospect],
        usable_bytes: int,
        chat_share: float,
        row_s: Callable[[str, str, int], float],
        tags: Mapping[str, float],
        leave_s: float = 0.0,
    ) -> None:
        """`row_s`: seconds of one row of a forward, by model, shape and how many requests the lane runs; `tags`: of the keys, as
        the queue has them; `leave_s`: seconds in which an idle model leaves.
        """
        self._tags = defaultdict(float, tags)
        self._models = prospects
        self._usable = usable_bytes
        self._chat_share = chat_share
        self._row_s = row_s
        self._leave_s = leave_s
        self._lanes: dict[str, _Lane] = {}
        self._left: dict[str, int] = {}  # requests, by job
        self._closed: set[str] = set()
        self._promised = ""
        self._now = 0.0
        self._ends: dict[str, float] = {}

    def ends(self, running: Iterable[Work], waiting: Sequence[Work]) -> dict[str, float]:
        """Seconds until each job is done. `waiting` in the order they start where nothing hinders them."""
        for work in running:
            self._lanes.setdefault(work.model, _Lane()).running += [(n, work) for n in work.forwards]
            self._left[work.job_id] = len(work.forwards)
        for work in waiting:
            self._lanes.setdefault(work.model, _Lane()).waiting.setdefault(work.key, deque()).append(work)
            self._left[work.job_id] = len(work.forwards)
        while len(self._ends) < len(self._left):
            self._admit()
            hindered_until = self._bring_the_next()
            if not self._advance(hindered_until):
                break  # what is left never fits
        return self._ends

    def _admit(self) -> None:
        for model, lane in self._lanes.items():
            prospect = self._models[model]
            if prospect.since is None or model in self._closed:
                continue
            while lane.waiting:
                key = min(lane.waiting, key=lambda key: self._due(lane.waiting[key][0]))
                n = len(lane.waiting[key][0].forwards)
                if lane.running and len(lane.running) + n > prospect.max_running:
                    break
                work = lane.waiting[key].popleft()
                if not lane.waiting[key]:
                    del lane.waiting[key]
                self._tags[key] += work.charge_s
                lane.running += [(forwards, work) for forwards in work.forwards]

    def _bring_the_next(self) -> float:
        """Load what can come; returns the moment at which one that cannot yet will close the doors in its way."""
        while True:
            missing = [m for m, lane in self._lanes.items() if lane.waiting and self._models[m].since is None]
            missing.sort(key=lambda m: (m != self._promised, self._due_of(m), m))
            until = math.inf
            for model in missing:
                if self._make_room(model):
                    self._now += self._models[model].load_s
                    self._models[model].since = self._now
                    self._promised = ""
                    self._closed.clear()
                    self._admit()
                    break
                closes_at = self._close_doors(model)
                until = min(until, closes_at)
                if self._closed:
                    self._promised = model
                    return math.inf
            else:
                return until

    def _make_room(self, model: str) -> bool:
        """Send idle models away, the longest there first, when that suffices."""
        prospect = self._models[model]
        free = self._free()
        idle = [m for m, p in self._models.items() if p.since is not None and not p.pinned and not self._runs(m)]
        idle = [m for m in idle if m in self._closed or not self._waits(m)]
        if prospect.n_bytes > free + sum(self._models[m].n_bytes for m in idle):
            return False
        for victim in idle:
            if free >= prospect.n_bytes:
                break
            free += self._models[victim].n_bytes
            self._now += self._leave_s
            self._models[victim].since = None
            self._models[victim].asked = self._now
        return True

    def _free(self) -> int:
        return self._usable - sum(p.n_bytes for p in self._models.values() if p.since is not None)

    def _close_doors(self, model: str) -> float:
        free = self._free()
        prospect = self._models[model]
        there = [(p.since, m) for m, p in self._models.items() if p.since is not None and not p.pinned]
        due = prospect.asked + prospect.patience_s
        for since, victim in sorted(there):
            if free >= prospect.n_bytes:
                break
            free += self._models[victim].n_bytes
            due = max(due, since + self._models[victim].slice_s)
            if self._now >= due:
                self._closed.add(victim)
        return due if due > self._now else math.inf

    def _advance(self, until: float) -> bool:
        """To the next end, or `until`. False when nothing moves."""
        working = {m: lane for m, lane in self._lanes.items() if lane.running}
        if not working:
            self._now = until
            return until < math.inf
        pace = self._pace(working)
        step_s = min(min(n for n, _ in lane.running) * pace[m] for m, lane in working.items())
        step_s = min(step_s, max(0.0, until - self._now))
        self._now += step_s
        for model, lane in working.items():
            still = []
            for forwards, work in lane.running:
                left = forwards - step_s / pace[model]
                if left > 1e-6:
                    still.append((left, work))
                    continue
                self._left[work.job_id] -= 1
                if not self._left[work.job_id]:
                    self._ends[work.job_id] = self._now
            lane.running = still
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
            rows = len(lane.running)
            seconds = sum(self._row_s(model, work.shape, rows) for _, work in lane.running)
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
