"""How right the estimates prove: what was said of each job when it came and half way, against when it was done."""

from __future__ import annotations

from statistics import median

from pipelines.interface import StepCost
from scripts.simulation.traces import Maker, SimJob, Trace, chat, picture, video
from scripts.simulation.world import World, engine_job
from server.engine.eta import Estimates, etas_s
from server.job import Job

EVERY_S = 2.0  # how often it is asked what it thinks
WARM_UP_S = 1000.0  # until then a few jobs of each model taught it their times


def mixed_jobs(n: int, seed: int = 5) -> Trace:
    """Four models of which two or three fit, first a few of each, then `n` jobs of four keys at once."""
    models = [
        picture("small", 6, 5, 0.05, 0.15),
        picture("large", 24, 20, 0.4, 0.96),
        video("film", 30, 25, 1.0, 30),
        chat("talk", 16, 12),
    ]
    maker = Maker("mixed jobs", 48, models, seed)
    for model in models:
        for _ in range(8 if model.type == "image" else 4):
            maker.add(0.0, "early", model.name)
    shares = {"small": 0.4, "large": 0.25, "film": 0.1, "talk": 0.25}
    maker.batch(WARM_UP_S, n, ["a", "b", "c", "d"], shares)
    return maker.trace()


def small_jobs(n: int, seed: int = 5) -> Trace:
    """What `benchmarks/residency.py` does live: four small models of which two fit, each alone and eight together, then `n` jobs of one key at once."""
    models = [picture(name, 10, 0.3, 0.02, 0.3, steps=8) for name in ("amber", "birch", "cedar", "dune")]
    maker = Maker("small jobs", 26, models, seed)
    for i, model in enumerate(models):
        maker.add(i * 40.0, "early", model.name)
        maker.batch(i * 40.0 + 20.0, 8, ["early"], {model.name: 1.0})
    maker.batch(WARM_UP_S, n, ["a"], {model.name: 0.25 for model in models})
    return maker.trace()


class Watching(World):
    """A world that asks for estimates as it goes."""

    def __init__(self, trace: Trace, every_s: float) -> None:
        super().__init__(trace)
        self._every_s = every_s
        self.said: dict[str, list[tuple[float, float]]] = {}  # job id → (when, when it would be done)
        self._estimates = Estimates()
        self._engine_jobs: dict[str, Job] = {}
        self._ask_at = 0.0

    def arrived(self, job: SimJob) -> None:
        self._engine_jobs[job.id] = engine_job(job, self.trace.models[job.model])
        self._ask_at = self.now

    def learned(self, name: str, cost: StepCost) -> None:
        self._estimates.note([cost])

    def ended(self, job_id: str) -> None:
        super().ended(job_id)
        job = self._engine_jobs.pop(job_id)
        self._estimates.finished(job.model, job.requests[0])

    def turn(self) -> None:
        if self.now >= self._ask_at:
            self._ask_at = self.now + self._every_s
            self._ask()
        super().turn()

    def _ask(self) -> None:
        queue = self.scheduler.queue
        waiting = [entry.job for entry in queue.in_order()]
        running = [job for job in self._engine_jobs.values() if job.id not in queue]
        for job_id, seconds in etas_s(self.scheduler, self._estimates, running, waiting, self.now).items():
            self.said.setdefault(job_id, []).append((self.now, self.now + seconds))


def errors(trace: Trace, every_s: float = EVERY_S) -> tuple[float, float, int]:
    """Medians over the jobs that have an estimate, of |said − took| / took: from submission, and from half way."""
    world = Watching(trace, every_s)
    outcome = world.run()
    at_once, half_way = [], []
    for job in trace.jobs:
        said = world.said.get(job.id, [])
        if job.at < WARM_UP_S or not said:
            continue
        took = outcome.ended[job.id] - job.at
        half = job.at + took / 2
        at_once.append(abs(said[0][1] - job.at - took) / took)
        asked, until = min(said, key=lambda one: abs(one[0] - half))
        half_way.append(abs(until - outcome.ended[job.id]) / (outcome.ended[job.id] - asked))
    return median(at_once), median(half_way), len(at_once)
