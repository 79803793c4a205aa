"""Follows one model from its first job to compiled blocks: who waits how long, what is compiled, what a step gains.

    python benchmarks/compiled.py --family flux --out compiled.json --seconds 90      on a GPU
    python benchmarks/compiled.py --family flux --tiny --device cpu                   tiny models, needs a C++ compiler

In this order, each part written to the file when it is done: a step as written, in the lane and of the stock pipeline;
the worker process that compiles after the first job, and a step beside it; the forward that reads the compiled code
from the cache; a compiled step; jobs of other sizes and widths with the graphs that each adds; a compiled step of the
stock pipeline. Results differ from those as written by rounding alone, which is recorded as the largest difference of
two pixels. The time of a step is the difference of a long and a short job, divided by the difference of their steps.
"""

from __future__ import annotations

import argparse
import functools
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from torch._dynamo.utils import counters  # noqa: E402  (needs the path above)

from benchmarks.compiled_sides import StockCompile, twin  # noqa: E402
from benchmarks.gpu_results import Results, median, timed  # noqa: E402
from benchmarks.real_models import MODELS, build, denoiser, request  # noqa: E402
from pipelines import device as device_module  # noqa: E402
from pipelines.diffusion.block_compiler import counting  # noqa: E402
from pipelines.diffusion.compile_worker import Worker  # noqa: E402
from pipelines.diffusion.compiled_blocks import CompiledBlocks  # noqa: E402
from pipelines.diffusion.lane import DiffusionLane  # noqa: E402
from pipelines.diffusion_interface import DiffusionRequest  # noqa: E402
from server.process.libraries import stop_compilers  # noqa: E402
from tests.support.lanes.lane_play import direct, gap, rendered  # noqa: E402

LANE_BAR = 1.05
PROGRESS_S = 5.0  # between two lines about the worker
Run = Callable[[DiffusionRequest], Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=None, help="the JSON file to write, after every measurement")
    parser.add_argument("--family", choices=list(MODELS), default="flux")
    parser.add_argument("--seconds", type=float, default=90.0, help="time limit (default: %(default)s)")
    parser.add_argument("--device", default=device_module.default_device(), help="default: %(default)s")
    parser.add_argument("--tiny", action="store_true", help="tiny models")
    parser.add_argument("--cache", type=Path, default=None, help="the compiler's cache (default: a new folder)")
    arguments = parser.parse_args()

    with tempfile.TemporaryDirectory(prefix="compiled-") as folder:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(arguments.cache or folder)  # read at each compilation
        results = Results("compiled blocks", arguments.out, arguments.device, seconds=arguments.seconds)
        with results.part("build"):
            follow = Follow(arguments.family, results, arguments.device, arguments.tiny)
            for part in (follow.as_written, follow.worker, follow.compiled, follow.other_sizes, follow.stock_compiled):
                with results.part(part.__name__):
                    results.check_time()
                    part()
        stop_compilers()


class Follow:
    """One family: its lane, a stock pipeline over the same weights, and what was measured of them."""

    def __init__(self, family: str, results: Results, device: str, tiny: bool) -> None:
        self.family, self.device, self.tiny = family, device, tiny
        self.results = results
        self.jobs = 0
        self.model = MODELS[family]
        self.short, self.long = (1, 3) if tiny else (1, min(5, self.model.long))
        pipeline, seconds = timed(device, lambda: build(family, device, tiny=tiny))
        self.stock = twin(pipeline)
        self.lane = DiffusionLane(pipeline, kind=self.model.kind, device_name=device)
        self.denoiser = denoiser(pipeline)
        self.blocks = CompiledBlocks([self.denoiser], prepare=functools.partial(Worker, device_name=device))
        self.graphs = counting("inductor")
        results.record("build", family=family, seconds=round(seconds, 2), blocks=len(self.blocks.modules))

    def as_written(self) -> None:
        """The lane has no compiled blocks yet, so that no worker runs beside it."""
        run = functools.partial(direct, self.stock)
        self.in_lane(self.request(self.short))
        run(self.request(self.short))
        self.picture = self.in_lane(self.request(self.long, "same"))
        found = {"lane_step_s": self.step(self.in_lane), "direct_step_s": self.step(run)}
        self.record("as_written", **found, lane_over_direct=found["lane_step_s"] / found["direct_step_s"])

    def worker(self) -> None:
        """From the end of the first job on, and what a job beside the worker takes."""
        self.lane.compile_blocks(self.blocks)
        self.in_lane(self.request(self.short))
        began = time.perf_counter()
        beside: list[float] = []
        said = 0.0
        while self.blocks.preparing:
            self.results.check_time()
            if (seconds := time.perf_counter() - began) > said + PROGRESS_S:
                said = seconds
                print(f"{'':9}  worker: at it for {seconds:.0f} s, {_cache_files()} files in the cache", flush=True)
            if len(beside) < 2:
                beside.append(self.step(self.in_lane, turns=1))
            time.sleep(0.02)
        seconds = time.perf_counter() - began
        self.record("worker", seconds=seconds, step_s_beside=min(beside, default=None), notes=list(self.lane.notes))

    def compiled(self) -> None:
        """The job that reads the compiled code, and those after it."""
        before, cpu = _cache_counts(), time.thread_time()
        first = timed(self.device, lambda: self.in_lane(self.request(self.short)))[1]
        hits, cpu = _difference(_cache_counts(), before), time.thread_time() - cpu
        again = median([timed(self.device, lambda: self.in_lane(self.request(self.short)))[1] for _ in range(2)])
        difference = gap(self.in_lane(self.request(self.long, "same")), self.picture)
        self.record("compiled", delay_of_first_job_s=first - again, first_job_cpu_s=cpu, cache=hits)
        self.record("compiled", largest_difference=difference, joined_weights=self.blocks.n_joined)
        step = self.step(self.in_lane)
        written = self.results.found["parts"]["as_written"]["lane_step_s"]
        self.record("compiled", lane_step_s=step, over_as_written=step / written, notes=list(self.lane.notes))

    def other_sizes(self) -> None:
        """Each change of size or width, with the graphs that it adds: at most once for one row and for several."""
        base = self.request(self.short)
        half = {"width": base.width * 3 // 4 // 64 * 64, "height": base.height * 3 // 4 // 64 * 64}
        half = {name: value or base.width for name, value in half.items()}
        for name, rows, change in (("smaller", 1, half), ("two", 2, {}), ("three", 3, {}), ("two smaller", 2, half)):
            self.results.check_time(5.0 if not self.tiny else 0.0)
            graphs, began = self.graphs.n_graphs, time.perf_counter()
            for _ in range(2):  # the first is described to the worker where its code is missing
                self.in_lane(*[replace(self.request(self.short), **change) for _ in range(rows)])
                while self.blocks.preparing:
                    self.results.check_time()
                    time.sleep(0.02)
            facts = {"graphs": self.graphs.n_graphs - graphs, "seconds": round(time.perf_counter() - began, 2)}
            self.record("other_sizes", **{name: facts})
        self.record("other_sizes", notes=list(self.lane.notes))

    def stock_compiled(self) -> None:
        """The stock pipeline with its blocks compiled as diffusers' documentation says, called directly."""
        before = _cache_counts()
        switch = StockCompile(denoiser(self.stock))
        switch.switch(True)
        run = functools.partial(direct, self.stock)
        first = timed(self.device, lambda: run(self.request(self.short)))[1]
        self.record("stock_compiled", first_job_s=first, cache=_difference(_cache_counts(), before))
        found = {"direct_step_s": self.step(run), "lane_step_s": self.step(self.in_lane)}
        ratio = found["lane_step_s"] / found["direct_step_s"]
        self.record("stock_compiled", **found, lane_over_direct=ratio, ok=ratio <= LANE_BAR)

    def step(self, run: Run, turns: int = 3) -> float:
        """Seconds of a step, the median of some turns."""
        seconds: list[float] = []
        for _ in range(turns):
            self.results.check_time()
            short, long = (timed(self.device, lambda n=n: run(self.request(n)))[1] for n in (self.short, self.long))
            seconds.append((long - short) / (self.long - self.short))
        return median(seconds)

    def in_lane(self, *wanted: DiffusionRequest) -> Any:
        done = rendered(self.lane, wanted)
        self.lane.take_costs()
        return done[wanted[0].id].frames

    def request(self, steps: int, name: str = "") -> DiffusionRequest:
        self.jobs += 1
        return request(self.family, name or f"job {self.jobs}", steps, tiny=self.tiny)

    def record(self, part: str, **facts: Any) -> None:
        rounded = {name: float(f"{value:.5g}") if isinstance(value, float) else value for name, value in facts.items()}
        self.results.record(part, **rounded)


def _cache_files() -> int:
    """How far the worker is: it writes files as it goes."""
    return sum(len(files) for _, _, files in os.walk(os.environ["TORCHINDUCTOR_CACHE_DIR"]))


def _cache_counts() -> dict[str, int]:
    """How often compiled code was found in the cache or not, in this process so far."""
    return {
        f"{group}.{name}": int(count)
        for group in ("inductor", "aot_autograd")
        for name, count in counters[group].items()
        if "cache" in name
    }


def _difference(after: dict[str, int], before: dict[str, int]) -> dict[str, int]:
    return {name: count - before.get(name, 0) for name, count in after.items()}


if __name__ == "__main__":
    main()
