"""Models of given size, load time and step time, and four streams of jobs. Seeded: the same seed gives the same jobs.

Step times and merging gains are of the order measured by others on one large GPU: at 512² four rows in the time of 1.43 (2.8 times the
pictures), at 1024² two in that of 1.96; a decode step of a chat hardly cares how many share it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from server.job import JobType

GB = 10**9


@dataclass(frozen=True, slots=True)
class SimModel:
    name: str
    type: JobType
    weight_bytes: int
    load_s: float
    step_s: float  # one row
    steps: int
    row_cost: float  # a further row of the same forward, in steps of one row
    row_bytes: int = 0  # activations of one row
    max_running: int = 8
    blocks: int = 1  # places in a forward where it can give way

    @property
    def job_s(self) -> float:
        """Device seconds of one job alone: encoding and decoding take a step each."""
        return self.step_s * (self.steps + 2)

    def forward_s(self, rows: int) -> float:
        return self.step_s * (1 + self.row_cost * (rows - 1))


@dataclass(frozen=True, slots=True)
class SimJob:
    id: str
    key: str
    model: str
    at: float
    deadline: float


@dataclass(frozen=True, slots=True)
class Trace:
    name: str
    capacity_bytes: int
    models: Mapping[str, SimModel]
    jobs: tuple[SimJob, ...]
    host_bytes: int = 0


def picture(name: str, gigabytes: float, load_s: float, step_s: float, row_cost: float, steps: int = 20) -> SimModel:
    return SimModel(name, "image", round(gigabytes * GB), load_s, step_s, steps, row_cost, GB // 2)


def video(name: str, gigabytes: float, load_s: float, step_s: float, steps: int) -> SimModel:
    return SimModel(name, "video", round(gigabytes * GB), load_s, step_s, steps, 1.0, 4 * GB, max_running=4, blocks=40)


def chat(name: str, gigabytes: float, load_s: float, tokens: int = 150) -> SimModel:
    return SimModel(name, "chat", round(gigabytes * GB), load_s, 0.02, tokens, 0.03, GB // 20, max_running=32)


class Maker:
    def __init__(self, name: str, capacity_gb: float, models: list[SimModel], seed: int) -> None:
        self._name = name
        self._capacity = round(capacity_gb * GB)
        self._models = {model.name: model for model in models}
        self._draw = random.Random(seed)
        self._jobs: list[SimJob] = []

    def add(self, at: float, key: str, model: str) -> None:
        patience = 30.0 + 10 * self._models[model].job_s  # a deadline somebody might mean
        self._jobs.append(SimJob(f"j{len(self._jobs)}", key, model, at, at + patience))

    def stream(self, n: int, mean_gap_s: float, keys: list[str], shares: Mapping[str, float]) -> None:
        at = 0.0
        for _ in range(n):
            at += self._draw.expovariate(1 / mean_gap_s)
            model = self._draw.choices(list(shares), list(shares.values()))[0]
            self.add(at, self._draw.choice(keys), model)

    def batch(self, at: float, n: int, keys: list[str], shares: Mapping[str, float]) -> None:
        for _ in range(n):
            self.add(at, self._draw.choice(keys), self._draw.choices(list(shares), list(shares.values()))[0])

    def trace(self) -> Trace:
        jobs = sorted(self._jobs, key=lambda job: (job.at, job.id))
        return Trace(self._name, self._capacity, self._models, tuple(jobs))


def steady_mix(n: int, seed: int = 1) -> Trace:
    """Chat, two sizes of picture and some video, a little more than one job at a time can carry; three of the four models fit."""
    models = [
        picture("small", 6, 5, 0.05, 0.15),
        picture("large", 24, 20, 0.4, 0.96),
        video("film", 30, 25, 1.0, 30),
        chat("talk", 16, 12),
    ]
    maker = Maker("steady mix", 64, models, seed)
    maker.stream(n, 2.2, [f"key{i}" for i in range(8)], {"small": 0.35, "large": 0.1, "film": 0.05, "talk": 0.5})
    return maker.trace()


def parked_mix(n: int) -> Trace:
    """The same with host memory in which weights may wait: each burst of chat may have a working lane parked."""
    return replace(steady_mix(n), name="steady mix, parked", host_bytes=64 * GB)


def hot_and_cold(n: int, seed: int = 2) -> Trace:
    """One model everybody wants, nine now and then; two fit."""
    names = ["hot", *(f"cold{i}" for i in range(9))]
    models = [picture(name, 20, 15, 0.1, 0.15) for name in names]
    maker = Maker("one hot, nine cold", 48, models, seed)
    maker.stream(n, 3.0, [f"key{i}" for i in range(6)], {name: 0.6 if name == "hot" else 0.4 / 9 for name in names})
    return maker.trace()


def flooding_key(n: int, seed: int = 3) -> Trace:
    """One key hands in half of all jobs at once; four others come as ever."""
    models = [picture("small", 6, 5, 0.05, 0.15), picture("large", 24, 20, 0.4, 0.96), chat("talk", 16, 12)]
    maker = Maker("one key floods", 56, models, seed)
    shares = {"small": 0.5, "large": 0.2, "talk": 0.3}
    for i in range(n // 2):
        maker.add(0.0, "flood", list(shares)[i % 3])
    maker.stream(n - n // 2, 4.5, [f"key{i}" for i in range(4)], shares)
    return maker.trace()


def videos_and_chat(n: int, seed: int = 4) -> Trace:
    """Clips of minutes in a queue of their own, and chats that come by the dozen."""
    models = [video("film", 40, 30, 3.0, 40), chat("talk", 16, 12)]
    maker = Maker("long videos, bursts of chat", 72, models, seed)
    draw = random.Random(seed)
    bursts = max(1, n // 25)
    for burst in range(bursts):
        for _ in range(24):
            maker.add(burst * 120.0 + draw.random() * 3, f"chat{draw.randrange(6)}", "talk")
        maker.add(burst * 120.0, f"film{burst % 2}", "film")
    return maker.trace()


TRACES: Mapping[str, Callable[[int], Trace]] = {
    "steady": steady_mix,
    "parked": parked_mix,
    "cold": hot_and_cold,
    "flood": flooding_key,
    "video": videos_and_chat,
}
