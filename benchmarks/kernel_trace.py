"""Reads a profiler's record of kernels and calls to the driver: gaps, synchronisations, the longest kernels."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

# Calls that make the host wait for the device.
WAITS = re.compile(r"cu(da)?(Stream|Device|Event|Ctx)Synchronize|cudaMemcpy$|cudaFree$|cudaMalloc$")
LAUNCHES = re.compile(r"cu(da)?(LaunchKernel|LaunchKernelEx|GraphLaunch|LaunchCooperativeKernel)")
TO_HOST = re.compile(r"Memcpy DtoH")
LONGEST, WIDEST = 15, 8  # kernels and gaps that a summary names
SHORT_NAME = 110  # characters of a kernel's name that are kept


@dataclass(frozen=True, slots=True)
class Interval:
    """One kernel, copy or call. Times are nanoseconds of the profiler's clock."""

    name: str
    start_ns: int
    end_ns: int


@dataclass(frozen=True, slots=True)
class Trace:
    kernels: tuple[Interval, ...]  # in order of their start; copies and fills count, too
    calls: tuple[Interval, ...]  # to CUDA's runtime and driver, in order of their start


def read(profiler: Any) -> Trace:
    """Takes apart what `torch.profiler.profile` recorded. Without a GPU the operators of the CPU stand for kernels."""
    kernels, calls = [], []
    for event in profiler.profiler.kineto_results.events():
        interval = Interval(event.name(), event.start_ns(), event.start_ns() + event.duration_ns())
        on_device = "CUDA" in str(event.device_type())
        if on_device and not event.is_user_annotation():
            kernels.append(interval)
        elif interval.name.startswith("cu"):
            calls.append(interval)
        elif interval.name.startswith("aten::"):
            kernels.append(interval)
    if any(not kernel.name.startswith("aten::") for kernel in kernels):
        kernels = [kernel for kernel in kernels if not kernel.name.startswith("aten::")]
    return Trace(*(tuple(sorted(found, key=lambda each: each.start_ns)) for found in (kernels, calls)))


def busy_ns(intervals: Iterable[Interval]) -> int:
    """Nanoseconds in which at least one of the intervals runs. They are in order of their start."""
    total = until = 0
    for each in intervals:
        total += max(0, each.end_ns - max(until, each.start_ns))
        until = max(until, each.end_ns)
    return total


def gaps(intervals: Sequence[Interval]) -> list[tuple[int, str, str]]:
    """(nanoseconds, kernel before, kernel after) of each time in which none runs, the widest first."""
    found, until, last = [], intervals[0].end_ns, intervals[0]
    for each in intervals[1:]:
        if each.start_ns > until:
            found.append((each.start_ns - until, last.name, each.name))
        if each.end_ns >= until:
            until, last = each.end_ns, each
    return sorted(found, reverse=True)


def summary(trace: Trace, steps: int) -> dict[str, Any]:
    """What a reader wants to know of `steps` steps: from their first kernel to the end of their last."""
    kernels = trace.kernels
    if not kernels:
        return {"kernels": 0}
    window_ns = max(each.end_ns for each in kernels) - kernels[0].start_ns
    idle = gaps(kernels)
    launches = [call for call in trace.calls if LAUNCHES.match(call.name)]
    last_launch_ns = launches[-1].start_ns if launches else 0
    # What waits after the last launch ends the trace itself.
    waits = Counter(call.name for call in trace.calls if WAITS.match(call.name) and call.start_ns < last_launch_ns)
    to_host = [each for each in kernels if TO_HOST.search(each.name)]
    return {
        "steps": steps,
        "step_ms": round(window_ns / steps / 1e6, 3),
        "idle_share": round(1.0 - busy_ns(kernels) / window_ns, 4),
        "kernels_per_step": round(len(kernels) / steps, 1),
        "launch_calls_per_step": round(len(launches) / steps, 1),
        "launch_ms_per_step": round(sum(each.end_ns - each.start_ns for each in launches) / steps / 1e6, 3),
        "host_waits": dict(waits),
        "copies_to_host": len(to_host),
        "widest_gaps_us": [
            {"us": round(ns / 1e3, 1), "after": before[:SHORT_NAME], "before": after[:SHORT_NAME]}
            for ns, before, after in idle[:WIDEST]
        ],
        "gaps_by_width_us": _by_width(idle),
        "longest_kernels": longest(kernels, steps),
    }


def longest(kernels: Iterable[Interval], steps: int) -> list[dict[str, Any]]:
    """The kernels that take most of a step, by their names."""
    total: dict[str, int] = defaultdict(int)
    count: Counter[str] = Counter()
    for each in kernels:
        total[each.name] += each.end_ns - each.start_ns
        count[each.name] += 1
    everything = sum(total.values())
    ordered = sorted(total, key=lambda name: -total[name])[:LONGEST]
    return [
        {
            "name": name[:SHORT_NAME],
            "ms_per_step": round(total[name] / steps / 1e6, 3),
            "share": round(total[name] / everything, 3),
            "per_step": round(count[name] / steps, 1),
        }
        for name in ordered
    ]


def _by_width(idle: Iterable[tuple[int, str, str]]) -> dict[str, float]:
    """Milliseconds of idle time in gaps of each width: many short ones are launches, few wide ones are host work."""
    found: dict[str, float] = {}
    for ns, _, _ in idle:
        name = next((f"<{limit}" for limit in (2, 10, 50, 200, 1000) if ns < 1e3 * limit), ">=1000")
        found[name] = found.get(name, 0.0) + ns / 1e6
    return {name: round(ms, 3) for name, ms in sorted(found.items())}
