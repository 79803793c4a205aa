"""Measures `balanced` and `fast` against `exact`: the time of a job in a lane, the share of forwards that it computed,
and how far its output is from that of `exact`.

    python benchmarks/step_caching.py --out speeds.json --pictures speeds/            tiny-scenes, on the CPU
    python benchmarks/step_caching.py --models tiny-motion --peers --out clips.json   also diffusers' own caches
    python benchmarks/step_caching.py --models flux wan22 --device cuda --out s.json  real size, random weights

Seconds are those of the CPU where a job runs on one, because other programs change them little. Distances say something
of the built-in models only, which are trained. Peers are caches inside the denoiser, on the same pipeline called
directly: diffusers' FirstBlockCache at several thresholds, and TaylorSeer in its lite mode at several intervals.
"""

from __future__ import annotations

import argparse
import functools
import gc
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import common  # noqa: E402  (needs the path above)
import numpy as np  # noqa: E402
import torch  # noqa: E402
from diffusers.hooks import (  # noqa: E402
    FirstBlockCacheConfig,
    HookRegistry,
    TaylorSeerCacheConfig,
    apply_first_block_cache,
    apply_taylorseer_cache,
)
from diffusers.hooks.hooks import CacheContext, _set_cache_context  # noqa: E402
from numpy.typing import NDArray  # noqa: E402
from PIL import Image  # noqa: E402

from benchmarks import real_models  # noqa: E402
from benchmarks.gpu_results import Results, timed  # noqa: E402
from models.loading.load import load  # noqa: E402
from pipelines import device as device_module  # noqa: E402
from pipelines.diffusion.lane import DiffusionLane  # noqa: E402
from pipelines.diffusion_interface import DiffusionRequest  # noqa: E402
from pipelines.interface import StepCost  # noqa: E402
from pipelines.step_schedule import SPEEDS  # noqa: E402
from tests.support.lanes.lane_play import direct, rendered  # noqa: E402

BAR = 0.65  # most time of a `balanced` job, of the time of the same job at `exact`
BUILT_IN = {"tiny-scenes": "image", "tiny-motion": "video"}
THRESHOLDS = (0.05, 0.08, 0.12, 0.2)  # of FirstBlockCache
TAYLOR_INTERVALS = (2, 3, 4)

Frames = NDArray[np.float32]  # (F, H, W, 3) in [0, 1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [*BUILT_IN, *real_models.MODELS]
    parser.add_argument("--models", nargs="+", choices=names, default=["tiny-scenes"])
    parser.add_argument("--steps", nargs="+", type=int, default=[28, 50])
    parser.add_argument("--prompts", type=int, default=None, help="default: 8, and 1 of a model of real size")
    parser.add_argument("--out", type=Path, default=None, help="the JSON file to write, after every measurement")
    parser.add_argument("--pictures", type=Path, default=None, help="a folder for the outputs, of clips a frame")
    parser.add_argument("--peers", action="store_true", help="also measure diffusers' own caches")
    parser.add_argument("--seconds", type=float, default=300.0, help="time limit (default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="default: %(default)s")
    parser.add_argument("--tiny", action="store_true", help="tiny stand-ins of the models of real size")
    arguments = parser.parse_args()

    results = Results("step caching", arguments.out, arguments.device, seconds=arguments.seconds)
    for name in arguments.models:
        with results.part(name):
            subject = opened(name, arguments.device, arguments.prompts, tiny=arguments.tiny)
            measurement = Measurement(subject, results, arguments.pictures)
            for steps in arguments.steps:
                measurement.speeds(steps)
            pipeline = subject.lane.pipeline
            pipeline.set_progress_bar_config(disable=True)
            subject.lane.close()
            if arguments.peers:
                for steps in arguments.steps:
                    measurement.peers(pipeline, steps)
        gc.collect()
        device_module.release_cache()


@dataclass(frozen=True, slots=True)
class Subject:
    """A model in a lane, and jobs for it."""

    name: str
    lane: DiffusionLane
    device: str
    jobs: Callable[[int], list[DiffusionRequest]]  # for a number of steps


def opened(name: str, device: str, prompts: int | None, *, tiny: bool) -> Subject:
    if name in BUILT_IN:
        spec = common.built_in(BUILT_IN[name])
        assert spec is not None, f"{name} is part of the checkout"
        lane: Any = load(spec, device=device)

        def jobs(steps: int) -> list[DiffusionRequest]:
            return [common.diffusion_request(spec, f"{i}", i, steps=steps) for i in range(prompts or 8)]

        return Subject(name, lane, device, jobs)
    lane = DiffusionLane(
        real_models.build(name, device, tiny=tiny), kind=real_models.MODELS[name].kind, device_name=device
    )

    def real_jobs(steps: int) -> list[DiffusionRequest]:
        same = real_models.request(name, "job", steps, tiny=tiny)
        return [replace(same, id=f"{i}", seed=i) for i in range(prompts or 1)]

    return Subject(name, lane, device, real_jobs)


class Measurement:
    def __init__(self, subject: Subject, results: Results, pictures: Path | None) -> None:
        self._subject = subject
        self._results = results
        self._pictures = pictures
        self._exact: dict[int, tuple[list[Frames], float]] = {}  # by number of steps: outputs, seconds
        self._run(subject.jobs(12))  # kernels are chosen, prompts are encoded and remembered
        self._run([replace(job, speed="fast") for job in subject.jobs(12)])

    def speeds(self, steps: int) -> None:
        jobs = self._subject.jobs(steps)
        exact_forwards = 0
        for speed in SPEEDS:
            self._results.check_time(self._exact[steps][1] if steps in self._exact else 0.0)
            self._subject.lane.take_costs()
            outputs, seconds = self._run([replace(job, speed=speed) for job in jobs])
            costs = [cost for cost in self._subject.lane.take_costs() if isinstance(cost, StepCost)]
            forwards = sum(cost.stage == "denoising" for cost in costs)
            if speed == "exact":
                self._exact[steps] = outputs, seconds
                exact_forwards = forwards
            bar = {"within_bar": seconds / self._exact[steps][1] <= BAR} if speed == "balanced" else {}
            self._record(f"{steps} {speed}", steps, outputs, seconds, share=round(forwards / exact_forwards, 3), **bar)
            self._save(f"{steps}-{speed}", outputs)

    def peers(self, pipeline: Any, steps: int) -> None:
        jobs = self._subject.jobs(steps)
        whole, seconds = self._directly(pipeline, jobs)
        self._exact[steps] = whole, seconds
        denoiser = real_models.denoiser(pipeline)
        for label, hook in _peers(steps):
            self._results.check_time(seconds)
            outputs, took = [], 0.0
            for job in jobs:
                with _hooked(denoiser, hook):
                    (output,), once = self._directly(pipeline, [job])
                outputs.append(output)
                took += once
            self._record(f"{steps} {label}", steps, outputs, took)
            self._save(f"{steps}-{label}", outputs)

    def _directly(self, pipeline: Any, jobs: Sequence[DiffusionRequest]) -> tuple[list[Frames], float]:
        return self._timed(lambda: [direct(pipeline, job) for job in jobs])

    def _run(self, jobs: Sequence[DiffusionRequest]) -> tuple[list[Frames], float]:
        """One job after the other."""
        lane = self._subject.lane
        return self._timed(lambda: [rendered(lane, [job])[job.id].frames for job in jobs])

    def _timed(self, work: Callable[[], list[Frames]]) -> tuple[list[Frames], float]:
        began = time.process_time()
        outputs, seconds = timed(self._subject.device, work)
        return outputs, time.process_time() - began if self._subject.device == "cpu" else seconds

    def _record(self, label: str, steps: int, outputs: list[Frames], seconds: float, **more: Any) -> None:
        exact, exact_s = self._exact[steps]
        distances = [rmse(one, other) for one, other in zip(outputs, exact, strict=True)]
        likeness = [ssim(one, other) for one, other in zip(outputs, exact, strict=True)]
        found = {
            "seconds_a_job": round(seconds / len(outputs), 4),
            "ratio": round(seconds / exact_s, 3),
            "rmse": round(float(np.mean(distances)), 5),
            "rmse_worst": round(max(distances), 5),
            "ssim": round(float(np.mean(likeness)), 5),
            "ssim_worst": round(min(likeness), 5),
        }
        self._results.record(self._subject.name, **{label: found | more})

    def _save(self, label: str, outputs: list[Frames]) -> None:
        if self._pictures is None:
            return
        self._pictures.mkdir(parents=True, exist_ok=True)
        row = np.concatenate([frames[len(frames) // 2] for frames in outputs], axis=1)
        pixels = (row * 255).round().clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(self._pictures / f"{self._subject.name}-{label.replace(' ', '-')}.png")


def _peers(steps: int) -> Iterator[tuple[str, Callable[[torch.nn.Module], None]]]:
    for threshold in THRESHOLDS:
        yield (
            f"FirstBlockCache {threshold}",
            functools.partial(apply_first_block_cache, config=FirstBlockCacheConfig(threshold)),
        )
    for interval in TAYLOR_INTERVALS:
        config = TaylorSeerCacheConfig(
            cache_interval=interval,
            disable_cache_before_step=5,
            disable_cache_after_step=steps - 1,
            max_order=1,
            taylor_factors_dtype=torch.float32,
            use_lite_mode=True,
        )
        yield f"TaylorSeer {interval}", functools.partial(apply_taylorseer_cache, config=config)


@contextmanager
def _hooked(denoiser: torch.nn.Module, hook: Callable[[torch.nn.Module], None]) -> Iterator[None]:
    """Installs a cache of diffusers for one job. It needs a context, which not every pipeline opens."""
    forward = denoiser.forward
    hook(denoiser)
    registry = HookRegistry.check_if_exists_or_initialize(denoiser)
    registry.invalidate_child_registries_cache()

    def in_context(*args: Any, **kwargs: Any) -> Any:
        _set_cache_context(denoiser, CacheContext("job"))
        return forward(*args, **kwargs)

    denoiser.forward = in_context  # type: ignore[method-assign]
    try:
        yield
    finally:
        del denoiser.forward  # the class's own method shows again
        for module in denoiser.modules():
            own = getattr(module, "_diffusers_hook", None)
            for name in list(own.hooks) if own is not None else ():
                own.remove_hook(name, recurse=False)


def rmse(one: Frames, other: Frames) -> float:
    return float(np.sqrt(((one - other) ** 2).mean()))


def ssim(one: Frames, other: Frames) -> float:
    """Structural similarity of the grey pictures, with the usual Gaussian window of 11 pixels; 1: equal."""
    x, y = (torch.from_numpy(frames.mean(axis=-1)).double()[:, None] for frames in (one, other))
    line = torch.exp(-((torch.arange(11, dtype=torch.float64) - 5) ** 2) / (2 * 1.5**2))
    window = torch.outer(line, line)[None, None] / line.sum() ** 2

    def mean(values: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.conv2d(values, window)

    mx, my = mean(x), mean(y)
    vx, vy, both = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
    c1, c2 = 0.01**2, 0.03**2
    found = (2 * mx * my + c1) * (2 * both + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    return float(found.mean())


if __name__ == "__main__":
    main()
