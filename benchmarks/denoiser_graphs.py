"""Measures a denoising step of small pictures as it is, with CUDA graphs of whole forwards, and with compiled blocks.

    python benchmarks/denoiser_graphs.py --out graphs.json                      all cases, on a GPU
    python benchmarks/denoiser_graphs.py --out graphs.json --cases sd15-512     one of them
    python benchmarks/denoiser_graphs.py --out graphs.json --tiny               tiny models, also without a GPU

The sides take turns in one lane, at one job and at four that share their forwards. The time of a step is the difference
of two jobs that differ in their number of steps. Here every forward is recorded; `forward_s` has what the lane goes by
when it serves: a forward is worth a graph where the host takes 0.7 of its time on the device or more to launch it.
Bars: pictures with graphs are those without, bit for bit; with graphs a step takes no longer, 3 % allowed.
"""

from __future__ import annotations

import argparse
import functools
import gc
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402  (needs the path above)
import torch  # noqa: E402

from benchmarks.compiled_sides import WARM_UPS, compile_lane  # noqa: E402
from benchmarks.families import FAMILIES  # noqa: E402
from benchmarks.gpu_results import Results, median, timed  # noqa: E402
from benchmarks.real_models import denoiser  # noqa: E402
from benchmarks.stand_in import STAND_IN_CALL, stand_in  # noqa: E402
from pipelines import device as device_module  # noqa: E402
from pipelines.cuda_graphs import usual_pool  # noqa: E402
from pipelines.diffusion.graphs.forward_graphs import ForwardGraphs  # noqa: E402
from pipelines.diffusion.lane import DiffusionLane  # noqa: E402
from pipelines.diffusion_interface import DiffusionRequest  # noqa: E402
from scripts import gpu_build, gpu_models  # noqa: E402
from server.process.libraries import stop_compilers  # noqa: E402
from tests.support.lanes.lane_play import rendered  # noqa: E402
from tests.support.lanes.recording_pool import RecordingPool  # noqa: E402

BAR = 1.03  # of a step's time as it is
WIDTHS = {1: 3, 4: 2}  # jobs at once → turns
SHORT, LONG = 1, 9  # steps of two jobs
OFTEN = 3  # forwards until one is recorded; a server waits for 20


Build = Callable[[str, torch.dtype], Any]  # on this device


@dataclass(frozen=True, slots=True)
class Case:
    family: str  # class name in diffusers: of the tiny stand-in
    build: Build
    size: int  # pixels
    call: dict[str, Any]


def _real(build: Callable[[], Any]) -> Build:
    return lambda device, dtype: gpu_build.built(device, dtype, build)


PIXART = STAND_IN_CALL | {"max_sequence_length": 120}
CASES = {
    "sd15-512": Case("StableDiffusionPipeline", _real(gpu_models.stable_diffusion), 512, {}),
    "sdxl-512": Case("StableDiffusionXLPipeline", _real(gpu_models.stable_diffusion_xl), 512, {}),
    "scenes-128": Case("PixArtSigmaPipeline", lambda device, dtype: stand_in().to(device, dtype), 128, STAND_IN_CALL),
    "sdxl-1024": Case("StableDiffusionXLPipeline", _real(gpu_models.stable_diffusion_xl), 1024, {}),
    "pixart-512": Case("PixArtSigmaPipeline", _real(gpu_models.pixart_sigma), 512, PIXART),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=None, help="the JSON file to write, after every measurement")
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--compiled", nargs="*", choices=list(CASES), default=["sd15-512"], help="with compiled blocks")
    parser.add_argument("--seconds", type=float, default=60.0, help="time limit (default: %(default)s)")
    parser.add_argument("--device", default=device_module.default_device(), help="default: %(default)s")
    parser.add_argument("--tiny", action="store_true", help="tiny models")
    arguments = parser.parse_args()

    device, tiny = arguments.device, arguments.tiny
    results = Results("CUDA graphs of forwards", arguments.out, device, seconds=arguments.seconds, tiny=tiny)
    for compiled, names in ((False, arguments.cases), (True, arguments.compiled)):
        for name in names:
            with results.part(f"{name} compiled" if compiled else name):
                results.check_time(0.0 if tiny else 8.0)
                measurement = Measurement(name, results, device, tiny, compiled=compiled)
                for width, turns in WIDTHS.items():
                    measurement.run(width, turns)
                measurement.lane.close()
            measurement = None  # type: ignore[assignment]  # frees the model
            gc.collect()
            device_module.release_cache()
    stop_compilers()


class Measurement:
    """One case, and a lane whose graphs are switched on and off."""

    def __init__(self, name: str, results: Results, device: str, tiny: bool, *, compiled: bool) -> None:
        self.case, self.device, self.tiny, self.compiled = CASES[name], device, tiny, compiled
        self.part = f"{name} compiled" if compiled else name
        self.results, self.jobs = results, 0
        pipeline, seconds = timed(device, self._build)
        self.lane = DiffusionLane(pipeline, kind="image", device_name=device)
        self.record(build_s=seconds)
        if compiled:
            compile_lane(self.lane, denoiser(pipeline))
        make_pool = functools.partial(usual_pool, device) if device.startswith("cuda") else RecordingPool
        self.graphs = ForwardGraphs(make_pool, device, often=OFTEN, most_seconds=60.0, launching=0.0)
        self.sides = {"as it is": ForwardGraphs(None, device), "graphs": self.graphs}

    def _build(self) -> Any:
        if self.tiny:
            return FAMILIES[self.case.family].build().to(self.device)
        dtype = torch.bfloat16 if self.device.startswith("cuda") else torch.float32
        pipeline = self.case.build(self.device, dtype)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def run(self, width: int, turns: int) -> None:
        """Runs jobs until all is chosen, compiled, proved and recorded, compares the sides and times them in turns."""
        pictures, warm_up = {}, {}
        for side in self.sides:
            jobs = functools.partial(self.jobs_at_once, side, LONG, width)
            for _ in range(WARM_UPS if self.compiled else 1):
                self.results.check_time()
                warm_up[side] = timed(self.device, jobs)[1]
            pictures[side] = jobs()
        same = all(np.array_equal(one, two, equal_nan=True) for one, two in zip(*pictures.values(), strict=True))
        facts: dict[str, Any] = {"same": same, "last_warm_up_s": warm_up, "forward_s": self.graphs.forward_seconds}
        facts |= {"graphs": self.graphs.n_graphs, "graph_bytes": self.graphs.n_bytes, "notes": list(self.lane.notes)}
        self.record(**{f"width {width}": facts})
        steps: dict[str, list[float]] = {side: [] for side in self.sides}
        for _ in range(turns):
            for side, seconds in steps.items():
                self.results.check_time()
                short, long = (
                    timed(self.device, functools.partial(self.jobs_at_once, side, n, width))[1] for n in (SHORT, LONG)
                )
                seconds.append((long - short) / (LONG - SHORT))
            found = {side: median(seconds) for side, seconds in steps.items()}
            ratio = found["graphs"] / found["as it is"]
            facts |= {"step_s": found, "ratio": ratio, "ok": same and ratio <= BAR}
            self.record(**{f"width {width}": facts})

    def jobs_at_once(self, side: str, steps: int, width: int) -> list[Any]:
        self.lane.record_forwards(self.sides[side])
        wanted = [self.request(steps, row) for row in range(width)]
        done = rendered(self.lane, wanted)
        self.lane.take_costs()
        return [done[job.id].frames for job in wanted]

    def request(self, steps: int, row: int) -> DiffusionRequest:
        """Jobs of one row are alike, so that pictures can be compared. Lanes remember encoded prompts on all sides."""
        self.jobs += 1
        family = FAMILIES[self.case.family]
        size = family.size if self.tiny else self.case.size
        return DiffusionRequest(
            id=f"job {self.jobs}",
            prompt=f"a red circle, {row}",
            negative_prompt=None,
            width=size,
            height=size,
            num_frames=None,
            steps=steps,
            guidance_scale=5.0,
            seed=row,
            call=dict(family.call if self.tiny else self.case.call),
        )

    def record(self, **facts: Any) -> None:
        self.results.record(self.part, **_rounded(facts))


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(each) for each in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


if __name__ == "__main__":
    main()
