"""The simulator's inputs: models with sizes, load times and step times, and streams of jobs. A seed fixes the jobs.

Step times and batching gains follow measurements that others published for one large GPU. At 512² a batch of four takes
1.43 times as long as one image (2.8 times the throughput), at 1024² a batch of two takes 1.96 times as long. A decode
step of a chat model takes about as long for many chats as for one.
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
    step_s: float  # of a batch of one
    steps: int
    row_cost: float  # what each further row adds to a forward, as a multiple of step_s
    row_bytes: int = 0  # activations of one row
    max_running: int = 8
    blocks: int = 1  # a forward can be preempted between its blocks

    @property
    def job_s(self) -> float:
        """Device seconds of a job that runs alone. Encoding and decoding take one step each."""
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


def image_model(
    name: str, gigabytes: float, load_s: float, step_s: float, row_cost: float, steps: int = 20
) -> SimModel:
    return SimModel(name, "image", round(gigabytes * GB), load_s, step_s, steps, row_cost, GB // 2)


def video_model(name: str, gigabytes: float, load_s: float, step_s: float, steps: int) -> SimModel:
    return SimModel(name, "video", round(gigabytes * GB), load_s, step_s, steps, 1.0, 4 * GB, max_running=4, blocks=40)


def chat_model(name: str, gigabytes: float, load_s: float, tokens: int = 150) -> SimModel:
    return SimModel(name, "chat", round(gigabytes * GB), load_s, 0.02, tokens, 0.03, GB // 20, max_running=32)


class TraceBuilder:
    def __init__(self, name: str, capacity_gb: float, models: list[SimModel], seed: int) -> None:
        self._name = name
        self._capacity = round(capacity_gb * GB)
        self._models = {model.name: model for model in models}
        self._draw = random.Random(seed)
        self._jobs: list[SimJob] = []

    def add(self, at: float, key: str, model: str) -> None:
        patience = 30.0 + 10 * self._models[model].job_s  # a plausible deadline of a user
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
    """Chat, two image models, some video: more than a server can do unbatched. Three of the four models fit."""
    models = [
        image_model("small", 6, 5, 0.05, 0.15),
        image_model("large", 24, 20, 0.4, 0.96),
        video_model("film", 30, 25, 1.0, 30),
        chat_model("talk", 16, 12),
    ]
    builder = TraceBuilder("steady mix", 64, models, seed)
    builder.stream(n, 2.2, [f"key{i}" for i in range(8)], {"small": 0.35, "large": 0.1, "film": 0.05, "talk": 0.5})
    return builder.trace()


def parked_mix(n: int) -> Trace:
    """The steady mix with host memory for parked weights: a burst of chats may park a working lane."""
    return replace(steady_mix(n), name="steady mix, parked", host_bytes=64 * GB)


def hot_and_cold(n: int, seed: int = 2) -> Trace:
    """One model that most jobs want and nine that few want. Two fit."""
    names = ["hot", *(f"cold{i}" for i in range(9))]
    models = [image_model(name, 20, 15, 0.1, 0.15) for name in names]
    builder = TraceBuilder("one hot, nine cold", 48, models, seed)
    builder.stream(n, 3.0, [f"key{i}" for i in range(6)], {name: 0.6 if name == "hot" else 0.4 / 9 for name in names})
    return builder.trace()


def flooding_key(n: int, seed: int = 3) -> Trace:
    """One key submits half of all jobs at once, while four other keys submit theirs one by one."""
    models = [
        image_model("small", 6, 5, 0.05, 0.15),
        image_model("large", 24, 20, 0.4, 0.96),
        chat_model("talk", 16, 12),
    ]
    builder = TraceBuilder("one key floods", 56, models, seed)
    shares = {"small": 0.5, "large": 0.2, "talk": 0.3}
    for i in range(n // 2):
        builder.add(0.0, "flood", list(shares)[i % 3])
    builder.stream(n - n // 2, 4.5, [f"key{i}" for i in range(4)], shares)
    return builder.trace()


def videos_and_chat(n: int, seed: int = 4) -> Trace:
    """Videos that take minutes, and bursts of two dozen chats."""
    models = [video_model("film", 40, 30, 3.0, 40), chat_model("talk", 16, 12)]
    builder = TraceBuilder("long videos, bursts of chat", 72, models, seed)
    draw = random.Random(seed)
    bursts = max(1, n // 25)
    for burst in range(bursts):
        for _ in range(24):
            builder.add(burst * 120.0 + draw.random() * 3, f"chat{draw.randrange(6)}", "talk")
        builder.add(burst * 120.0, f"film{burst % 2}", "film")
    return builder.trace()


TRACES: Mapping[str, Callable[[int], Trace]] = {
    "steady": steady_mix,
    "parked": parked_mix,
    "cold": hot_and_cold,
    "flood": flooding_key,
    "video": videos_and_chat,
}
