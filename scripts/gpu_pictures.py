"""The part of the device check about pictures as inputs: one base of SDXL's size serves four tasks and an upscaler.

Each task is held against the stock class, called directly with the same inputs: alone pixel by pixel, and all four at
once by what the denoiser first gives each, as `gpu_lanes.py` does for prompts. The weights of the base and of the
ControlNet must be there once.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from benchmarks.real_models import denoiser
from models.adapters.adapter_files import adapter_bytes, adapter_stamp
from models.loading.adapters import open_adapter
from pipelines import device as device_module
from pipelines.batching.proof import TOLERANCE
from pipelines.diffusion.inputs.preprocessors import RUN
from pipelines.diffusion.lane import DiffusionLane
from pipelines.diffusion_interface import Adapter, Control, DiffusionRequest, Inputs
from pipelines.upscaling.pipeline import UpscalerPipeline
from pipelines.upscaling.upscaler import open_upscaler
from scripts import gpu_models
from scripts.gpu_build import built
from scripts.gpu_lanes import FirstOutputs, relative_difference
from tests.support.lanes.lane_play import gap, rendered, request
from tests.support.lanes.picture_jobs import direct_task, mask_file, picture_file
from tests.support.lanes.stock_families import FAMILIES
from tests.support.lanes.tiny_adapters import controlnet_for
from tests.support.tiny_upscaler import save_upscaler

SIDE = 1024  # pixels, of the pictures of the large model
PREFIX = "StableDiffusionXL"

Record = Callable[..., None]


@dataclass(frozen=True, slots=True)
class Case:
    """A request, and what the stock class is given for its pictures."""

    request: DiffusionRequest
    given: dict[str, Any]
    lent: dict[str, Any]  # further modules of the class


def check_pictures(tiny: bool, device: str, record: Record) -> None:
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    family = FAMILIES["sdxl"]
    pipeline = family.build().to(device) if tiny else built(device, dtype, gpu_models.stable_diffusion_xl)
    pipeline.set_progress_bar_config(disable=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        controlnet = controlnet_for(pipeline) if tiny else built(device, dtype, lambda: _controlnet(pipeline))
        controlnet.to(dtype).save_pretrained(folder / "canny")
        n_bytes = adapter_bytes(folder / "canny", dtype.itemsize)
        adapter = Adapter("canny", "controlnet", str(folder / "canny"), adapter_stamp(folder / "canny"), n_bytes)
        opens = functools.partial(open_adapter, pipeline=pipeline, device=device, dtype=dtype)
        lane = DiffusionLane(pipeline, kind="image", device_name=device, open_adapter=opens)
        base = lane.weight_bytes
        cases = _cases(family, folder, adapter, controlnet, family.size if tiny else SIDE)
        _check_equality(pipeline, lane, cases, device, record)
        held = lane.weight_bytes / (base + n_bytes)
        record(base_bytes=base, adapter_bytes=n_bytes, held_against_base_and_adapter=round(held, 4))
        record(merging=lane.merging, verdicts=dict(lane.verdicts))
        lane.close()
        _check_upscaler(folder, 64 if tiny else 640, dtype, device, record)


def _controlnet(pipeline: Any) -> Any:
    from diffusers import ControlNetModel

    return ControlNetModel.from_unet(pipeline.unet, load_weights_from_unet=False)


def _cases(family: Any, folder: Path, adapter: Adapter, controlnet: Any, side: int) -> list[Case]:
    """Text, image-to-image, inpainting and a ControlNet, each with a seed of its own."""
    make = functools.partial(request, family, width=side, height=side, steps=4)
    photo, mask = picture_file(folder / "photo.png", side, side), mask_file(folder / "mask.png", side, side)
    image, white = Image.open(photo.path).convert("RGB"), Image.open(mask.path).convert("L")
    changed = make(
        "image", seed=2, pipeline=f"{PREFIX}Img2ImgPipeline", inputs=Inputs(image=photo),
        input_arguments={"image": "image"}, strength=0.6,
    )  # fmt: skip
    repainted = make(
        "mask", seed=3, pipeline=f"{PREFIX}InpaintPipeline", inputs=Inputs(image=photo, mask=mask),
        input_arguments={"image": "image", "mask": "mask_image"}, strength=0.9,
    )  # fmt: skip
    control = Control(photo, adapter, preprocessor="canny")
    controlled = make(
        "control", seed=4, pipeline=f"{PREFIX}ControlNetPipeline", inputs=Inputs(controls=(control,)),
        input_arguments={"control": "image"},
    )  # fmt: skip
    return [
        Case(make("text", seed=1), {}, {}),
        Case(changed, {"image": image}, {}),
        Case(repainted, {"image": image, "mask_image": white}, {}),
        Case(controlled, {"image": RUN["canny"](image)}, {"controlnet": controlnet}),
    ]


def _check_equality(pipeline: Any, lane: DiffusionLane, cases: list[Case], device: str, record: Record) -> None:
    expected = {}
    with FirstOutputs(denoiser(pipeline)) as stock:
        for case in cases:
            stock.called_directly = case.request.id
            expected[case.request.id] = direct_task(pipeline, case.request, **case.given, lent=case.lent)
    jobs = [case.request for case in cases]
    twice = gap(direct_task(pipeline, jobs[0]), expected["text"])  # two equal calls may differ on some devices
    alone = {job.id: gap(rendered(lane, [job])[job.id].frames, expected[job.id]) for job in jobs}
    rendered(lane, jobs)  # proves that the calls may be merged
    with FirstOutputs(denoiser(pipeline)) as merged:
        mixed = rendered(lane, jobs)
    first_step = {name: relative_difference(merged.by_job[name], first) for name, first in stock.by_job.items()}
    tolerance = TOLERANCE[torch.float32 if device == "cpu" else torch.bfloat16]
    record(
        agrees=max(alone.values()) <= twice and max(first_step.values()) <= tolerance,
        stock_twice_gap=twice,
        alone_gaps=alone,
        first_step_differences=first_step,
        tolerance=tolerance,
        batch_peaks={name: end.batch_peak for name, end in mixed.items()},
    )


def _check_upscaler(folder: Path, side: int, dtype: torch.dtype, device: str, record: Record) -> None:
    """Whether an upscaler gives the device's picture in tiles as on the CPU, and how long it takes."""
    path = save_upscaler(folder / "upscaler.safetensors", scale=2)
    image = Image.open(picture_file(folder / "small.png", side, side).path)
    made = {}
    for place, kind in (("cpu", torch.float32), (device, dtype)):
        upscale = UpscalerPipeline(open_upscaler(path, dtype=kind, device=place))
        upscale.set_progress_bar_config(disable=True)
        made[place] = upscale(image=image, width=2 * side, height=2 * side, output_type="np")[0]
        device_module.release_cache()
    record(upscaler_gap=gap(made[device], made["cpu"]))
