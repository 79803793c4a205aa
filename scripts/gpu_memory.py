"""The memory part of the device check: measured peaks, out of memory, loading and unloading. `gpu_check.py` runs it."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch

from pipelines import device as device_module
from pipelines.diffusion.lane import DiffusionLane
from pipelines.interface import Failed, OutOfMemory, Rendered, StepCost
from scripts import gpu_models
from scripts.gpu_build import built
from server.memory.activations import Peaks
from server.protocol import Peak
from tests.support.lanes.faults import out_of_memory
from tests.support.lanes.lane_play import ends, play, rendered, request
from tests.support.lanes.stock_families import FAMILIES

MIB = 1 << 20
SWAPS = {False: 20, True: 4}  # with --tiny or not → how often a model is loaded and unloaded
SWAPS_S = 30.0  # time limit of all swaps together

Record = Callable[..., None]


def check_memory(tiny: bool, device: str, record: Record) -> None:
    family = FAMILIES["sd15"]
    build = functools.partial(stable_diffusion, tiny, device)
    pipeline = build()
    size: dict[str, Any] = {} if tiny else {"width": 512, "height": 512}
    make = functools.partial(request, family, steps=2, **size)
    lane = DiffusionLane(pipeline, kind="image", device_name=device)
    _check_peaks(lane, make, device, record)
    _check_out_of_memory(lane, make, device, record)
    lane.close()
    del lane, pipeline
    _check_swaps(build, make, tiny, device, record)


def stable_diffusion(tiny: bool, device: str) -> Any:
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    pipeline = FAMILIES["sd15"].build() if tiny else built(device, dtype, gpu_models.stable_diffusion)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)


def _check_peaks(lane: DiffusionLane, make: Any, device: str, record: Record) -> None:
    """Compares the peak bytes that the lane measures for a denoising step with a direct call and a prediction."""
    measured: dict[int, int] = {}
    peaks = Peaks()
    for rows in (8, 1, 2, 4, 8):  # the first run proves merging
        rendered(lane, [make(f"{rows} {i}", seed=i) for i in range(rows)])
        for cost in lane.take_costs():
            if isinstance(cost, StepCost) and cost.component == "unet" and cost.peak_bytes is not None:
                measured[cost.rows] = max(measured.get(cost.rows, 0), cost.peak_bytes)
                if cost.rows < 8:
                    entry = f"{cost.component}.{cost.entry}"
                    peaks.record(Peak("m", entry, cost.shape, cost.units, cost.rows, cost.peak_bytes))
    job = make("direct")
    predicted = peaks.predict("m", "unet.forward", "another", job.width * job.height, 8)
    direct = _direct_peak(lane.pipeline, job, device)
    record(
        peaks={
            "lane_by_rows": measured,
            "direct_one_row": direct,
            "lane_against_direct": round(measured[1] / direct, 3),
            "predicted_8_against_measured": None if predicted is None else round(predicted / measured[8], 3),
        }
    )


def _direct_peak(pipeline: Any, job: Any, device: str) -> int:
    meters: list[device_module.PeakMeter] = []

    def before(*_: object) -> None:
        meters.append(device_module.PeakMeter(device))
        meters[-1].resume()

    hooks = [
        pipeline.unet.register_forward_pre_hook(before),
        pipeline.unet.register_forward_hook(lambda *_: meters[-1].pause()),
    ]
    call = {"prompt": job.prompt, "width": job.width, "height": job.height, "guidance_scale": 4.0}
    pipeline(**call, num_inference_steps=3, output_type="latent")
    for hook in hooks:
        hook.remove()
    return max(meter.peak_bytes for meter in meters[1:])


def _check_out_of_memory(lane: DiffusionLane, make: Any, device: str, record: Record) -> None:
    """Runs eight jobs where only some fit at once, one job where nothing fits, then one with all memory free again."""
    rendered(lane, [make("warm")])
    lane.take_costs()
    baseline = _allocated(device)
    peak = {rows: _peak_of(lane, make, rows) for rows in (1, 8)}
    with _only_free(lane.pipeline, device, (peak[1] + peak[8]) // 2, above_rows=4):
        done = ends(play_all(lane, [make(f"tight {i}", seed=i) for i in range(8)]))
    refused = [note.rows for note in lane.take_costs() if isinstance(note, OutOfMemory)]
    with _only_free(lane.pipeline, device, peak[1] // 8, above_rows=0):
        (failed,) = ends(play_all(lane, [make("none")])).values()
    lane.take_costs()
    rendered(lane, [make("after")])
    device_module.release_cache()
    record(
        out_of_memory={
            "real": device.startswith("cuda"),
            "eight_all_rendered": all(isinstance(end, Rendered) for end in done.values()),
            "widths_refused": refused,
            "alone_without_room": failed.code if isinstance(failed, Failed) else type(failed).__name__,
            "held_after_mib": round((_allocated(device) - baseline) / MIB, 1),
        }
    )


def _peak_of(lane: DiffusionLane, make: Any, rows: int) -> int:
    lane._costs._log.forget_bytes()
    rendered(lane, [make(f"peak {i}", seed=i) for i in range(rows)])
    return max(cost.peak_bytes or 0 for cost in lane.take_costs() if isinstance(cost, StepCost))


@contextlib.contextmanager
def _only_free(pipeline: Any, device: str, n_bytes: int, *, above_rows: int) -> Iterator[None]:
    """Allocates all but `n_bytes` of the GPU. Without a GPU, injects out of memory above `above_rows` rows."""
    if not device.startswith("cuda"):
        with out_of_memory(pipeline.unet, above_rows=above_rows):
            yield
        return
    device_module.release_cache()
    free, _ = device_module.memory(device)
    ballast = torch.empty(max(0, free - n_bytes), dtype=torch.uint8, device=device)
    yield
    del ballast
    device_module.release_cache()


def play_all(lane: DiffusionLane, requests: list[Any]) -> list[Any]:
    for each in requests:
        lane.admit(each)
    return play(lane)


def _check_swaps(build: Callable[[], Any], make: Any, tiny: bool, device: str, record: Record) -> None:
    """Loads a model, runs a job and unloads it, many times. Every other time it also parks and unparks the model."""
    device_module.release_cache()
    baseline, held, began = _allocated(device), [], time.perf_counter()
    for i in range(SWAPS[tiny]):
        lane = DiffusionLane(build(), kind="image", device_name=device)
        if i % 2:
            lane.unpark(list(lane.parked) if lane.park(list(lane.components)) else [])
        rendered(lane, [make("swap")])
        lane.close()
        del lane
        held.append(_allocated(device) - baseline)
        if time.perf_counter() - began > SWAPS_S:
            break
    record(
        swaps={
            "count": len(held),
            "seconds_each": round((time.perf_counter() - began) / len(held), 3),
            "held_after_first_mib": round(held[0] / MIB, 1),
            "held_after_last_mib": round(held[-1] / MIB, 1),
            "back_to_baseline": abs(held[-1]) <= 64 * MIB,
        }
    )


def _allocated(device: str) -> int:
    return torch.cuda.memory_allocated(device) if device.startswith("cuda") else device_module.held_by_us(device)
