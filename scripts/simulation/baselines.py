"""Scheduling policies of other servers, as baselines. In their favor, loads cost what ours do and evictions nothing."""

from __future__ import annotations

from collections import OrderedDict, deque

from scripts.simulation.outcome import Outcome
from scripts.simulation.traces import SimJob, Trace

OLLAMA_FIT = 0.8  # a model is loaded if it needs at most this share of the free memory
OLLAMA_PARALLEL = 4  # concurrent chats of one model; images and videos run one at a time
OLLAMA_KEEP_ALIVE_S = 300.0


def one_at_a_time(trace: Trace, name: str, most_models: int) -> Outcome:
    """Runs the jobs one at a time in order of arrival. Keeps the `most_models` most recently used models loaded."""
    outcome, now = Outcome(name), 0.0
    loaded: OrderedDict[str, None] = OrderedDict()
    for job in trace.jobs:
        model = trace.models[job.model]
        now = max(now, job.at)
        if job.model not in loaded:
            if len(loaded) >= most_models:
                loaded.popitem(last=False)
                outcome.evictions += 1
            outcome.loads += 1
            now += model.load_s
        loaded[job.model] = None
        loaded.move_to_end(job.model)
        outcome.started[job.id] = now
        now += model.job_s
        outcome.busy_s += model.job_s
        outcome.ended[job.id] = now
    return outcome


def fifo(trace: Trace) -> Outcome:
    return one_at_a_time(trace, "FIFO", 1)


def lru_by_count(trace: Trace) -> Outcome:
    """Keeps as many models as fit whichever they are: a cache that counts models and not bytes."""
    sizes = sorted((model.weight_bytes + model.row_bytes for model in trace.models.values()), reverse=True)
    most = next((n for n in range(len(sizes), 0, -1) if sum(sizes[:n]) <= trace.capacity_bytes), 1)
    return one_at_a_time(trace, "LRU", most)


class Ollama:
    """One process per model, all sharing the device evenly.

    A job whose model does not fit blocks all jobs behind it until a model is idle and has been unloaded.
    """

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        self._outcome = Outcome("Ollama")
        self._pending: deque[SimJob] = deque()
        self._queued: dict[str, deque[SimJob]] = {}  # loaded model → jobs waiting in its process
        self._active: dict[str, dict[str, float]] = {}  # loaded model → job id → remaining device seconds
        self._loading: tuple[str, float] | None = None  # (model, when it is loaded); one load at a time
        self._used_at: dict[str, float] = {}

    def run(self) -> Outcome:
        arrivals, i, now = self._trace.jobs, 0, 0.0
        while i < len(arrivals) or self._pending or self._loading or any(self._queued.values()) or self._busy():
            while i < len(arrivals) and arrivals[i].at <= now:
                self._pending.append(arrivals[i])
                i += 1
            self._schedule(now)
            until = min(
                [arrivals[i].at if i < len(arrivals) else float("inf"), self._next_end(now)]
                + ([self._loading[1]] if self._loading else [])
            )
            self._advance(now, until)
            now = until
        return self._outcome

    def _busy(self) -> bool:
        return any(self._active.values())

    def _schedule(self, now: float) -> None:
        if self._loading and self._loading[1] <= now:
            model, self._loading = self._loading[0], None
            self._queued[model], self._active[model] = deque(), {}
            self._used_at[model] = now
        while self._pending and self._loading is None:
            job = self._pending[0]
            if job.model in self._queued:
                self._queued[job.model].append(self._pending.popleft())
            elif not self._make_room(job.model):
                break
            else:
                self._outcome.loads += 1
                self._loading = (job.model, now + self._trace.models[job.model].load_s)
        for model, queue in self._queued.items():
            slots = OLLAMA_PARALLEL if self._trace.models[model].type == "chat" else 1
            while queue and len(self._active[model]) < slots:
                job = queue.popleft()
                self._outcome.started[job.id] = now
                self._active[model][job.id] = self._trace.models[model].job_s

    def _make_room(self, model: str) -> bool:
        """Returns whether the model fits, after unloading idle models in the order in which their keep-alive ends."""
        while True:
            held = sum(self._trace.models[name].weight_bytes for name in self._queued)
            free = self._trace.capacity_bytes - held
            if not self._queued or self._trace.models[model].weight_bytes <= OLLAMA_FIT * free:
                return True
            idle = [name for name in self._queued if not self._active[name] and not self._queued[name]]
            if not idle:
                return False
            victim = min(idle, key=lambda name: self._used_at[name] + OLLAMA_KEEP_ALIVE_S)
            del self._queued[victim], self._active[victim]
            self._outcome.evictions += 1

    def _rates(self) -> dict[str, float]:
        """Returns by model how fast one job advances: processes share the device evenly, and chats of a model batch."""
        working = [name for name, jobs in self._active.items() if jobs]
        rates = {}
        for name in working:
            model, rows = self._trace.models[name], len(self._active[name])
            rates[name] = model.step_s / model.forward_s(rows) / len(working)
        return rates

    def _next_end(self, now: float) -> float:
        rates = self._rates()
        return min(
            (now + min(self._active[name].values()) / rate for name, rate in rates.items()), default=float("inf")
        )

    def _advance(self, now: float, until: float) -> None:
        rates = self._rates()
        if rates:
            self._outcome.busy_s += until - now
        for name, rate in rates.items():
            for job_id in list(self._active[name]):
                self._active[name][job_id] -= rate * (until - now)
                if self._active[name][job_id] <= 1e-9:
                    del self._active[name][job_id]
                    self._outcome.ended[job_id] = until
                    self._used_at[name] = until


def ollama(trace: Trace) -> Outcome:
    return Ollama(trace).run()


BASELINES = (fifo, ollama, lru_by_count)
