"""Measures a denoising step and a whole job of models at real size: in a lane and called directly, eager and compiled.

    python benchmarks/step_times.py --out steps.json                          all families, on a GPU
    python benchmarks/step_times.py --out steps.json --families flux sdxl     some of them
    python benchmarks/step_times.py --out steps.json --tiny                   tiny models, also without a GPU

The sides take turns in one process over the same weights. The time of a step is the difference of two jobs that differ
in their number of steps, divided by that number; the time of a whole job follows from both. Bars: in the lane at most
1.05 × of the stock pipeline called directly; at most the published times (`real_models.py`); SDXL's forward at 0.55 of
the rate at which the card multiplies large matrices, at the width where it is highest.
"""

from __future__ import annotations

import argparse
import functools
import gc
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402  (needs the path above)
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from benchmarks.compiled_sides import WARM_UPS, StockCompile, compile_lane, graphs_compiled, twin  # noqa: E402
from benchmarks.gpu_results import (  # noqa: E402
    Results,
    matmul_flops_per_s,
    median,
    peak_bytes,
    reset_peak,
    timed,
)
from benchmarks.real_models import MODELS, RealModel, build, denoiser, request  # noqa: E402
from pipelines import device as device_module  # noqa: E402
from pipelines.diffusion.compile_worker import start_compilers  # noqa: E402
from pipelines.diffusion.lane import DiffusionLane  # noqa: E402
from server.process.libraries import stop_compilers  # noqa: E402
from tests.support.lanes.lane_play import direct, rendered  # noqa: E402

LANE_BAR, RATE_BAR = 1.05, 0.55

Job = Callable[[int], Any]  # runs one job of this many steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=None, help="the JSON file to write, after every measurement")
    parser.add_argument("--families", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--seconds", type=float, default=300.0, help="time limit (default: %(default)s)")
    parser.add_argument("--eager", action="store_true", help="do not compile")
    parser.add_argument("--lane-only", action="store_true", help="without the pipeline called directly, in fewer turns")
    parser.add_argument("--device", default=device_module.default_device(), help="default: %(default)s")
    parser.add_argument("--tiny", action="store_true", help="tiny models")
    arguments = parser.parse_args()

    results = Results("step times", arguments.out, arguments.device, seconds=arguments.seconds, tiny=arguments.tiny)
    if not arguments.eager and arguments.device.startswith("cuda"):
        start_compilers()
    rate = matmul_flops_per_s(arguments.device)
    results.record("matmul", tera_flops_per_s=round(rate / 1e12, 2))
    for name in arguments.families:
        with results.part(name):
            results.check_time(20.0 if not arguments.tiny else 0.0)
            measurement = Measurement(name, results, arguments.device, arguments.tiny, arguments.lane_only)
            measurement.run(compiled=not arguments.eager, rate=rate)
            del measurement
        gc.collect()
        device_module.release_cache()
    stop_compilers()


class Measurement:
    """One family: its two pipelines over the same weights, and what was measured of them."""

    def __init__(self, name: str, results: Results, device: str, tiny: bool, lane_only: bool) -> None:
        self.name, self.device, self.tiny = name, device, tiny
        self.model: RealModel = MODELS[name]
        self._results = results
        self._jobs = 0
        self.pipeline, seconds = timed(device, lambda: build(name, device, tiny=tiny))
        self.record(build_s=round(seconds, 2), weights=_weights(self.pipeline))
        self.stock = twin(self.pipeline)
        self.lane = DiffusionLane(self.pipeline, kind=self.model.kind, device_name=device)
        self.sides: dict[str, Job] = {"lane": self.in_lane}
        if not lane_only:
            self.sides = {"direct": self.called_directly, **self.sides}
        self._turns = 1 if lane_only else self.model.turns
        self._compiled = False

    def record(self, **facts: Any) -> None:
        self._results.record(self.name, **facts)

    def run(self, *, compiled: bool, rate: float) -> None:
        self.record(flops=self.count_flops())
        self.warm_up()
        self.in_turns("eager")
        best = "eager"
        if compiled and self.compile():
            self.in_turns("compiled")
            best = "compiled"
        self.against_published(best)
        if self.model.widths:
            self.by_width(rate, best)

    def compile(self) -> bool:
        """Compiles the blocks on each side and runs it. Returns whether all can be measured."""
        before = graphs_compiled()
        self._compiled = True
        try:
            if "direct" in self.sides:
                StockCompile(denoiser(self.stock)).switch(True)
            compile_lane(self.lane, denoiser(self.pipeline))
            self.warm_up()
        except Exception as error:  # what the compiler raises; eager results stand
            if device_module.is_fatal(error):
                raise
            self.record(compile_error=f"{type(error).__name__}: {error}"[:2000])
            return False
        self.record(graphs=graphs_compiled() - before, notes=list(self.lane.notes))
        return True

    def warm_up(self) -> None:
        """Runs jobs on each side and records how long they took: kernels are chosen, code is compiled."""
        seconds: dict[str, list[float]] = {side: [] for side in self.sides}
        for side, run in self.sides.items():
            for _ in range(WARM_UPS if self._compiled else 2):
                self._results.check_time(8.0 if not self.tiny else 0.0)
                seconds[side].append(round(timed(self.device, lambda run=run: run(self.model.short))[1], 2))
        mode = "compiled" if self._compiled else "eager"
        self.record(**{f"warm_up_s_{mode}": seconds})

    def in_turns(self, mode: str) -> None:
        """Measures short and long jobs on each side in turns, and records medians after every turn."""
        seconds: dict[str, dict[int, list[float]]] = {
            side: {self.model.short: [], self.model.long: []} for side in self.sides
        }
        peaks: dict[str, int | None] = {}
        for _ in range(self._turns):
            for side, run in self.sides.items():
                for steps, measured in seconds[side].items():
                    self._results.check_time()
                    reset_peak(self.device)
                    measured.append(timed(self.device, lambda run=run, steps=steps: run(steps))[1])
                    peaks[side] = peak_bytes(self.device)
            found = {side: self.times(measured) | {"peak_bytes": peaks[side]} for side, measured in seconds.items()}
            turns = len(seconds["lane"][self.model.long])
            self.record(**{mode: found | {"turns": turns} | self.against_direct(seconds, found)})

    def against_direct(self, seconds: dict[str, dict[int, list[float]]], found: dict[str, Any]) -> dict[str, Any]:
        """The lane's times over those of the pipeline called directly, if it was."""
        if "direct" not in self.sides:
            return {}
        lane, direct = (seconds[side][self.model.long] for side in ("lane", "direct"))
        ratio = median([ours / theirs for ours, theirs in zip(lane, direct, strict=True)])
        steps = found["lane"]["step_s"] / found["direct"]["step_s"]
        return {
            "step_lane_over_direct": round(steps, 3),
            "job_lane_over_direct": round(ratio, 3),
            "ok": ratio <= LANE_BAR,
        }

    def times(self, seconds: dict[int, list[float]]) -> dict[str, Any]:
        """The time of a step, and of a whole job with as many steps as its model wants."""
        short, long = median(seconds[self.model.short]), median(seconds[self.model.long])
        step = (long - short) / (self.model.long - self.model.short)
        return {
            "step_s": round(step, 5),
            f"job_s_{self.model.short}_steps": round(short, 4),
            f"job_s_{self.model.long}_steps": round(long, 4),
            "job_s": round(long + (self.model.steps - self.model.long) * step, 4),
        }

    def against_published(self, mode: str) -> None:
        measured = self._results.found["parts"][self.name][mode]["lane"]
        for what, published in (("job_s", self.model.published_job_s), ("step_s", self.model.published_step_s)):
            if published is not None:
                ratio = round(measured[what] / published, 3)
                facts = {"mode": mode, "ours": measured[what], "published": published, "ratio": ratio, "ok": ratio <= 1}
                self.record(**{f"{what}_against_published": facts})

    def by_width(self, rate: float, mode: str) -> None:
        """Measures the lane with several jobs at once, and its share of the rate of large matrix products."""
        flops = self._results.found["parts"][self.name]["flops"]["step"]
        widths: dict[int, dict[str, Any]] = {}
        for width in (1, *self.model.widths):
            for _ in range(1 + WARM_UPS):  # the first run proves that the calls may be merged
                self.in_lane(self.model.short, width)
            self._results.check_time(5.0 if not self.tiny else 0.0)
            reset_peak(self.device)
            seconds = {
                steps: [timed(self.device, functools.partial(self.in_lane, steps, width))[1] for _ in range(2)]
                for steps in (self.model.short, self.model.long)
            }
            step = self.times(seconds)["step_s"]
            widths[width] = {
                "step_s": step,
                "step_s_each": round(step / width, 5),
                "share_of_matmul_rate": round(width * flops / step / rate, 3) if step > 0 else None,
                "peak_bytes": peak_bytes(self.device),
            }
            best = max(widths.values(), key=lambda found: found["share_of_matmul_rate"] or 0.0)
            share = best["share_of_matmul_rate"] or 0.0
            self.record(widths={"mode": mode, **widths, "best_share": share, "ok": share >= RATE_BAR})

    def count_flops(self) -> dict[str, int]:
        """Counts the operations of one forward of the denoiser, and how many forwards a step makes."""
        module, counted, calls = denoiser(self.stock), [], 0
        counter = FlopCounterMode(display=False)

        def before(*_: object) -> None:
            nonlocal calls
            calls += 1
            if calls == 1:
                counter.__enter__()

        def after(*_: object) -> None:
            if not counted:
                counter.__exit__(None, None, None)
                counted.append(counter.get_total_flops())

        hooks = [module.register_forward_pre_hook(before), module.register_forward_hook(after)]
        try:
            self.called_directly(2)
        finally:
            for hook in hooks:
                hook.remove()
        return {"forward": counted[0], "step": counted[0] * calls // 2, "forwards_of_2_steps": calls}

    def called_directly(self, steps: int) -> Any:
        return direct(self.stock, self.request(steps))

    def in_lane(self, steps: int, width: int = 1) -> Any:
        done = rendered(self.lane, [self.request(steps) for _ in range(width)])
        self.lane.take_costs()
        return done

    def request(self, steps: int) -> Any:
        self._jobs += 1
        return request(self.name, f"job {self._jobs}", steps, tiny=self.tiny)


def _weights(pipeline: Any) -> dict[str, int]:
    parts = {name: part for name, part in pipeline.components.items() if isinstance(part, torch.nn.Module)}
    return {name: sum(each.numel() for each in part.parameters()) for name, part in parts.items()}


if __name__ == "__main__":
    main()
