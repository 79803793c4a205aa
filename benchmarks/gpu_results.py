"""Results of a benchmark on a GPU, written to their file after every measurement, and the time that is left for more.

A lent machine may be gone at any moment, so nothing waits for the end.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import platform
import statistics
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch

from pipelines import device as device_module

LIBRARIES = ("torch", "triton", "diffusers", "transformers", "torchao", "peft", "greenlet", "numpy")


class OutOfTime(Exception):
    """The benchmark's own time limit has passed; what was measured so far is in the file."""


class Results:
    """One JSON file: facts about the machine, and the measurements of each part by its name."""

    def __init__(self, title: str, out: Path | None, device: str, *, seconds: float, **more: Any) -> None:
        """seconds: how long measurements may go on; `check_time` raises after that."""
        self._out = out
        self._began = time.perf_counter()
        self._seconds = seconds
        self.found: dict[str, Any] = {"title": title, "machine": machine(device), **more, "parts": {}}

    @property
    def seconds_left(self) -> float:
        return self._seconds - (time.perf_counter() - self._began)

    def check_time(self, needed_s: float = 0.0) -> None:
        """Raises `OutOfTime` when fewer than `needed_s` seconds are left."""
        if self.seconds_left < needed_s:
            raise OutOfTime(f"{needed_s:.0f} s are needed, {max(0.0, self.seconds_left):.0f} s are left")

    def record(self, part: str, /, **facts: Any) -> None:
        """Adds facts to a part, prints them and writes the file."""
        self.found["parts"].setdefault(part, {}).update(facts)
        print(f"{time.perf_counter() - self._began:7.1f} s  {part}: {json.dumps(facts)}", flush=True)
        self.save()

    def save(self) -> None:
        self.found["seconds"] = round(time.perf_counter() - self._began, 1)
        if self._out is not None:
            self._out.write_text(json.dumps(self.found, indent=1))

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Records an error instead of raising it, so that later parts run; a poisoned device ends everything."""
        try:
            yield
        except OutOfTime as reason:
            self.record(name, stopped=str(reason))
        except Exception as error:
            where = traceback.format_exc()[-2000:]
            self.record(name, error=f"{type(error).__name__}: {error}"[:2000], traceback=where)
            if device_module.is_fatal(error):
                raise


def machine(device: str) -> dict[str, Any]:
    """The card, the driver and the versions that a measurement depends on."""
    versions = {}
    for name in LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    found: dict[str, Any] = {
        "device": device_module.name(device),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "versions": versions | {"torch": torch.__version__},
    }
    if device.startswith("cuda"):
        properties = torch.cuda.get_device_properties(device)
        found |= {
            "capability": f"{properties.major}.{properties.minor}",
            "memory_bytes": properties.total_memory,
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "driver": driver_version(),
        }
    return found


def driver_version() -> str | None:
    try:
        import pynvml

        pynvml.nvmlInit()
        return str(pynvml.nvmlSystemGetDriverVersion())
    except Exception:  # noqa: BLE001  # a fact for the reader; its absence must not end a benchmark
        return None


def timed(device: str, work: Callable[[], Any]) -> tuple[Any, float]:
    """Runs `work` on an idle device until the device has done all of it. Returns its result and the seconds."""
    device_module.finish(device)
    began = time.perf_counter()
    result = work()
    device_module.finish(device)
    return result, time.perf_counter() - began


def reset_peak(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)


def peak_bytes(device: str) -> int | None:
    """Most bytes that the allocator has given out since `reset_peak`; None without a GPU."""
    return torch.cuda.max_memory_allocated(device) if device.startswith("cuda") else None


def median(values: Iterable[float]) -> float:
    return statistics.median(values)


def matmul_flops_per_s(device: str, size: int = 8192) -> float:
    """The rate of a square bfloat16 matrix product of random numbers, which is what a network can hope for."""
    dtype = torch.bfloat16 if device.startswith("cuda") else torch.float32
    size = size if device.startswith("cuda") else 256
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    out = torch.empty_like(a)

    def work(times: int) -> None:
        for _ in range(times):
            torch.mm(a, b, out=out)

    work(5)
    times = 20
    return 2.0 * size**3 * times / timed(device, lambda: work(times))[1]
