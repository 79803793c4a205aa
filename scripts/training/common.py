"""Shared by all training stages: the cache folder, the device, the time budget and a running average of weights."""

import copy
import functools
import os
import time
from pathlib import Path

import torch

MAX_TOKENS = 32  # caption length in tokens, for both pipelines (their `max_sequence_length`)
SIZES = {"1:1": (128, 128), "16:9": (176, 96), "9:16": (96, 176)}  # aspect ratio → width, height in pixels
LATENT_CHANNELS = 8
LATENT_FACTOR = 8  # pixels per latent cell


def cache_dir() -> Path:
    """Returns the folder outside the repository for training data and unfinished weights."""
    base = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    folder = base / "tiny-generation" / "train"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def mixed_precision() -> torch.autocast:
    """Enables bfloat16 if this device multiplies it faster than float32. On many CPUs it is far slower."""
    return torch.autocast(device().type, torch.bfloat16, enabled=_bfloat16_is_faster())


@functools.cache
def _bfloat16_is_faster() -> bool:
    def seconds(dtype: torch.dtype) -> float:
        matrix = torch.ones(512, 512, dtype=dtype, device=device())
        times = []
        for _ in range(3):
            started = time.perf_counter()
            (matrix @ matrix).sum().item()
            times.append(time.perf_counter() - started)
        return min(times)

    return seconds(torch.bfloat16) < seconds(torch.float32)


class Progress:
    """Measures how much of its time a stage has used (0..1), and prints mean values every `every` steps.

    On a CPU, minutes are CPU time: while the process is stopped or waits for a core, the clock stands still.
    """

    def __init__(self, name: str, minutes: float, every: int = 50):
        self.name, self.seconds, self.every = name, minutes * 60, every
        self.start, self.step = self._seconds_used(), 0
        self.sums: dict[str, float] = {}

    @property
    def fraction(self) -> float:
        return min(1.0, (self._seconds_used() - self.start) / self.seconds)

    @staticmethod
    def _seconds_used() -> float:
        if torch.cuda.is_available():  # the CPU mostly waits for the GPU
            return time.monotonic()
        return time.process_time() / torch.get_num_threads()

    def update(self, **values: float) -> None:
        self.step += 1
        for key, value in values.items():
            self.sums[key] = self.sums.get(key, 0.0) + float(value)
        if self.step % self.every == 0:
            text = " ".join(f"{key} {value / self.every:.4f}" for key, value in self.sums.items())
            print(f"{self.name} step {self.step} at {self.fraction:.0%}: {text}", flush=True)
            self.sums = {}


class Average:
    """Exponential moving average of a model's weights. The average is exported."""

    def __init__(self, model: torch.nn.Module, decay: float = 0.999):
        self.model, self.decay, self.steps = copy.deepcopy(model).eval().requires_grad_(False), decay, 0

    @torch.no_grad()
    def update(self, model: torch.nn.Module) -> None:
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        for mean, value in zip(self.model.parameters(), model.parameters(), strict=True):
            mean.lerp_(value.detach(), 1 - decay)
