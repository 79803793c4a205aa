"""Forecasts when each job ends by playing the scheduling policy forward, job by job. Device thread only; pure.

It does not simulate single steps. What it follows of the policy:
- Lanes share the device's seconds. The requests of a lane advance together; those at the same stage and shape share
  forwards, which take as long as forwards of that width were measured to take.
- A job is admitted when its lane has room for it.
- A missing model is loaded once idle models make room for it. When its patience and the time slices of the busy models
  that occupy its memory are over, admission to those is closed and it is loaded once they have drained.
- Other lanes go on while a model's files are read, and stand still while it is loaded.
Jobs that have not been submitted yet are not foreseen.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from server.scheduling.fair_queue import AGEING

EPSILON = 1e-6  # forwards, or seconds: less than this counts as nothing
Forwards: TypeAlias = tuple[str, float]  # "<stage> <shape>", and how many forwards of it


@dataclass(frozen=True, slots=True)
class RemainingWork:
    """The forwards that a job still has to run."""

    job_id: str
    model: str
    requests: tuple[tuple[Forwards, ...], ...]  # by request, in the order in which they run; at least one entry each
    key: str = ""  # the API key whose job it is
    charge_s: float = 0.0  # by how much the key's tag rises when the job starts
    since_s: float = 0.0  # when the job was accepted, seconds from now: negative


@dataclass(slots=True)
class ForecastModel:
    """What the forecast knows of a model."""

    n_bytes: int
    load_s: float  # during which all lanes stand still
    max_running: int
    slice_s: float  # time slice: with work, the model keeps its memory for so long
    patience_s: float  # the model waits so long before admission to those that occupy its memory is closed
    read_s: float = 0.0  # reading of its files before the load, during which other lanes go on
    row_bytes: int = 0  # largest activation memory of a single row
    is_chat: bool = False
    pinned: bool = False
    since_s: float | None = None  # when it was loaded, seconds from now: negative; None: it is not ready


@dataclass(slots=True)
class _RunningRequest:
    job_id: str
    shape: str  # stage and shape of its present forwards; empty: it has ended
    left: float  # forwards of that shape
    next_forwards: Iterator[Forwards]


@dataclass(slots=True)
class _LaneQueue:
    running: list[_RunningRequest] = field(default_factory=list)
    waiting: dict[str, deque[RemainingWork]] = field(default_factory=dict)  # by key


class Forecast:
    """One forecast; `run` may be called once."""

    def __init__(
        self,
        models: Mapping[str, ForecastModel],
        usable_bytes: int,
        chat_share: float,
        s_per_row: Callable[[str, str, int], float],
        tags: Mapping[str, float],
        eviction_s: float = 0.0,
        loading: str = "",
    ) -> None:
        """models: by name; changed by the forecast. tags: fair-queue tags by key. eviction_s: seconds of an eviction.

        s_per_row: (model, stage and shape, number of requests at it) → seconds per row of their forwards.
        loading: the model whose files are being read.
        """
        self._tags = defaultdict(float, tags)
        self._models = models
        self._usable = usable_bytes
        self._chat_share = chat_share
        self._s_per_row = s_per_row
        self._eviction_s = eviction_s
        self._lanes: dict[str, _LaneQueue] = {}
        self._requests_left: dict[str, int] = {}  # by job
        self._admission_closed: set[str] = set()
        self._promised = ""  # the model that memory is being freed for
        self._loading = loading
        self._read_at = models[loading].read_s if loading else 0.0  # when the files of that model are read
        self._now = 0.0
        self._ends: dict[str, float] = {}

    def run(self, running: Iterable[RemainingWork], waiting: Sequence[RemainingWork]) -> dict[str, float]:
        """Returns the seconds until each job ends; jobs that never fit are left out. waiting: in fair order."""
        for work in running:
            self._lanes.setdefault(work.model, _LaneQueue()).running += _start(work)
            self._requests_left[work.job_id] = len(work.requests)
        for work in waiting:
            self._lanes.setdefault(work.model, _LaneQueue()).waiting.setdefault(work.key, deque()).append(work)
            self._requests_left[work.job_id] = len(work.requests)
        while len(self._ends) < len(self._requests_left):
            self._admit()
            next_change = self._load_missing()
            if not self._advance(next_change):
                break
        return self._ends

    def _admit(self) -> None:
        for model, lane in self._lanes.items():
            facts = self._models[model]
            if facts.since_s is None or model in self._admission_closed:
                continue
            while lane.waiting:
                key = min(lane.waiting, key=lambda key: self._due(lane.waiting[key][0]))
                n = len(lane.waiting[key][0].requests)
                if lane.running and len(lane.running) + n > facts.max_running:
                    break
                work = lane.waiting[key].popleft()
                if not lane.waiting[key]:
                    del lane.waiting[key]
                self._tags[key] += work.charge_s
                lane.running += _start(work)

    def _load_missing(self) -> float:
        """Load the missing models that fit. Returns when the next one may fit, unless a job ends before; inf: unknown.

        That is when the files that are being read are complete, or when a model's patience is over.
        """
        while True:
            if self._loading:
                if self._now < self._read_at - EPSILON:
                    return self._read_at
                self._now += self._models[self._loading].load_s
                self._models[self._loading].since_s = self._now
                self._loading = ""
                self._admit()
            missing = [m for m, lane in self._lanes.items() if lane.waiting and self._models[m].since_s is None]
            missing.sort(key=lambda m: (m != self._promised, self._first_due(m), m))
            next_change = math.inf
            for model in missing:
                if self._make_room(model):
                    self._loading, self._read_at = model, self._now + self._models[model].read_s
                    self._promised = ""
                    self._admission_closed.clear()
                    self._admit()
                    break
                closes_at = self._close_admission(model)
                next_change = min(next_change, closes_at)
                if self._admission_closed:
                    self._promised = model
                    return math.inf
            else:
                return next_change

    def _make_room(self, model: str) -> bool:
        """Evict idle models, those loaded first before others, if that frees enough; False when it does not."""
        need, free = self._need(model), self._free()
        idle = [m for m, f in self._models.items() if f.since_s is not None and not f.pinned and not self._runs(m)]
        idle = [m for m in idle if m in self._admission_closed or not self._has_waiting(m)]
        idle.sort(key=lambda m: (self._models[m].since_s, m))
        if need > free + sum(self._models[m].n_bytes for m in idle):
            return False
        for victim in idle:
            if free >= need:
                break
            free += self._models[victim].n_bytes
            self._now += self._eviction_s
            self._models[victim].since_s = None
        return True

    def _need(self, model: str) -> int:
        """Bytes of the model and, where that fits the device, of the largest single row that then runs."""
        row_bytes = max(f.row_bytes for m, f in self._models.items() if m == model or self._runs(m))
        need = self._models[model].n_bytes
        return need if need + row_bytes > self._usable else need + row_bytes

    def _free(self) -> int:
        return self._usable - sum(
            f.n_bytes for m, f in self._models.items() if f.since_s is not None or m == self._loading
        )

    def _close_admission(self, model: str) -> float:
        """Close admission to models that occupy the memory of `model`, once its patience and their slices are over.

        Returns when that will be; inf: it is closed now, or no set of models frees enough.
        """
        need, free = self._need(model), self._free()
        movable = [(m, f) for m, f in self._models.items() if f.since_s is not None and not f.pinned]
        slice_ends = sorted(
            ((f.since_s or 0.0) + f.slice_s * (self._runs(m) or self._has_waiting(m)), m) for m, f in movable
        )
        waits_since = min(works[0].since_s for works in self._lanes[model].waiting.values())
        closes_at, chosen = waits_since + self._models[model].patience_s, []
        for slice_end, victim in slice_ends:
            if free >= need:
                break
            free += self._models[victim].n_bytes
            closes_at = max(closes_at, slice_end)
            chosen.append(victim)
        if free < need:
            return math.inf
        if self._now < closes_at:
            return closes_at
        self._admission_closed.update(chosen)
        return math.inf

    def _advance(self, until: float) -> bool:
        """Go on to the moment when the first request ends a stage, or to `until`. False when nothing will happen."""
        working = {m: lane for m, lane in self._lanes.items() if lane.running}
        if not working:
            self._now = until
            return until < math.inf
        round_s = self._round_s(working)
        seconds = min(min(request.left for request in lane.running) * round_s[m] for m, lane in working.items())
        seconds = min(seconds, max(0.0, until - self._now))
        self._now += seconds
        for model, lane in working.items():
            n = seconds / round_s[model]
            for request in lane.running:
                request.left -= n
                if request.left <= EPSILON:
                    request.shape, request.left = next(request.next_forwards, ("", 0.0))
            for request in lane.running:
                if not request.shape:
                    self._requests_left[request.job_id] -= 1
                    if not self._requests_left[request.job_id]:
                        self._ends[request.job_id] = self._now
            lane.running = [request for request in lane.running if request.shape]
        return True

    def _round_s(self, working: Mapping[str, _LaneQueue]) -> dict[str, float]:
        """Seconds in which each request of a lane advances by one forward, by model."""
        chats = sum(self._models[m].is_chat for m in working)
        others = len(working) - chats
        round_s = {}
        for model, lane in working.items():
            share = self._chat_share if self._models[model].is_chat else 1 - self._chat_share
            share = share if chats and others else 1.0
            lanes_of_class = chats if self._models[model].is_chat else others
            requests_at = Counter(request.shape for request in lane.running)
            seconds = sum(n * self._s_per_row(model, shape, n) for shape, n in requests_at.items())
            round_s[model] = max(1e-9, seconds * lanes_of_class / max(share, 1e-3))
        return round_s

    def _due(self, work: RemainingWork) -> float:
        return self._tags[work.key] + AGEING * work.since_s

    def _first_due(self, model: str) -> float:
        return min(self._due(works[0]) for works in self._lanes[model].waiting.values())

    def _runs(self, model: str) -> bool:
        return model in self._lanes and bool(self._lanes[model].running)

    def _has_waiting(self, model: str) -> bool:
        return model in self._lanes and bool(self._lanes[model].waiting)


def _start(work: RemainingWork) -> list[_RunningRequest]:
    started = []
    for forwards in work.requests:
        next_forwards = iter(forwards)
        shape, n = next(next_forwards)
        started.append(_RunningRequest(work.job_id, shape, n, next_forwards))
    return started
