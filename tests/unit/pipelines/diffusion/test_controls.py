"""Jobs that borrow ControlNets and T2I-Adapters equal the stock classes called directly, four at once on one base.

Tolerance: two steps of 8 bits; measured: 1e-6 in [0, 1].
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from benchmarks.families import FAMILIES as ALL
from pipelines.diffusion.lane import DiffusionLane
from pipelines.diffusion_interface import Control, DiffusionRequest, Inputs, MediaFile
from pipelines.interface import WeightsChanged
from tests.support.lanes.lane_play import gap, rendered, request
from tests.support.lanes.picture_jobs import mask_file, picture_file
from tests.support.lanes.stock_families import FAMILIES, Family
from tests.support.lanes.tiny_adapters import controlnet_for, opens_on_cpu, saved, with_numbers

TOLERANCE = 2 / 255

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning"),
]


def controlled(
    family: Family, name: str, pipeline: str, argument: str, controls: Sequence[Control], **wanted: Any
) -> DiffusionRequest:
    inputs = Inputs(controls=tuple(controls), **wanted.pop("files", {}))
    return request(family, name, pipeline=pipeline, inputs=inputs, input_arguments={"control": argument}
                   | wanted.pop("arguments", {}), **wanted)  # fmt: skip


def direct_control(pipeline: Any, wanted: DiffusionRequest, lent: dict[str, Any], **inputs: Any) -> NDArray[np.float32]:
    cls: Any = getattr(diffusers, wanted.pipeline or type(pipeline).__name__)
    stock = pipeline if not lent else cls.from_pipe(pipeline, **lent)
    stock.set_progress_bar_config(disable=True)
    torch.manual_seed(wanted.seed)  # some pipelines draw from torch's own generator where they encode a map
    given = {"strength": wanted.strength} if wanted.strength is not None else {}
    made = stock(
        prompt=wanted.prompt, width=wanted.width, height=wanted.height, num_inference_steps=wanted.steps,
        guidance_scale=wanted.guidance_scale, generator=torch.Generator("cpu").manual_seed(wanted.seed),
        output_type="np", **given, **inputs, **wanted.call,
    )  # fmt: skip
    return np.asarray(made[0], dtype=np.float32)


def opened(file: MediaFile) -> Image.Image:
    with Image.open(file.path) as picture:
        return picture.convert("RGB")


def test_jobs_with_different_controlnets_share_the_forwards_of_one_stable_diffusion(tmp_path: Path) -> None:
    family, pipeline = FAMILIES["sd15"], FAMILIES["sd15"].build()
    one, two = (saved(controlnet_for(pipeline, seed), tmp_path, name) for seed, name in enumerate(("canny", "depth")))
    size = family.size
    edges, depth = (picture_file(tmp_path / f"{seed}.png", size, size, seed) for seed in (1, 2))
    photo, mask = picture_file(tmp_path / "photo.png", size, size, 3), mask_file(tmp_path / "mask.png", size, size)
    on_cpu = opens_on_cpu(pipeline)
    nets = {name: on_cpu(adapter) for name, adapter in (("canny", one), ("depth", two))}
    text = "StableDiffusionControlNetPipeline"
    jobs = [
        (request(family, "text", steps=4, seed=1), {}, {}),
        (
            controlled(family, "canny", text, "image", [Control(edges, one, strength=0.7, end=0.5)], steps=4, seed=2),
            {"controlnet": nets["canny"]},
            {"image": opened(edges), "controlnet_conditioning_scale": 0.7, "control_guidance_end": 0.5},
        ),
        (
            controlled(family, "both", text, "image", [Control(edges, one), Control(depth, two, strength=0.4)], seed=3),
            {"controlnet": [nets["canny"], nets["depth"]]},
            {"image": [opened(edges), opened(depth)], "controlnet_conditioning_scale": [1.0, 0.4]},
        ),
        (
            controlled(
                family, "mask", "StableDiffusionControlNetInpaintPipeline", "control_image", [Control(depth, two)],
                files={"image": photo, "mask": mask}, arguments={"image": "image", "mask": "mask_image"},
                steps=5, strength=0.8, seed=4,
            ),
            {"controlnet": nets["depth"]},
            {"image": opened(photo), "mask_image": opened(mask), "control_image": opened(depth),
             "controlnet_conditioning_scale": 1.0},
        ),
    ]  # fmt: skip
    expected = {wanted.id: direct_control(pipeline, wanted, lent, **inputs) for wanted, lent, inputs in jobs}
    lane = DiffusionLane(pipeline, kind="image", open_adapter=on_cpu)
    base_bytes = lane.weight_bytes
    requests = [wanted for wanted, _, _ in jobs]
    rendered(lane, requests)  # proves what merges
    lane.take_costs()
    results = rendered(lane, requests)

    for wanted in requests:
        assert gap(results[wanted.id].frames, expected[wanted.id]) <= TOLERANCE, wanted.id
    # A denoiser that is given maps is called otherwise than for text alone, and by each class in its own way.
    assert results["canny"].batch_peak == results["both"].batch_peak == 2
    assert gap(results["canny"].frames, results["text"].frames) > TOLERANCE
    assert lane.components[one.component] == one.n_bytes
    assert lane.weight_bytes == base_bytes + one.n_bytes + two.n_bytes
    assert not any(isinstance(note, WeightsChanged) for note in lane.take_costs()), "both were held already"

    lane.drop_adapters([one.component])
    assert lane.weight_bytes == base_bytes + two.n_bytes
    again = rendered(lane, requests[:2])
    assert gap(again["canny"].frames, expected["canny"]) <= TOLERANCE
    lane.close()


def union_net(pipeline: Any, seed: int) -> Any:
    small = {"num_trans_channel": 16, "num_trans_head": 2, "num_proj_channel": 16, "num_control_type": 6}
    torch.manual_seed(seed)
    copied = diffusers.ControlNetModel.from_unet(pipeline.unet, conditioning_embedding_out_channels=(16, 32)).config
    known = {key: value for key, value in copied.items() if not key.startswith("_")}
    for key in ("mid_block_type", "global_pool_conditions", "num_attention_heads"):
        known.pop(key)
    known["num_trans_channel"] = pipeline.unet.config.block_out_channels[0]
    return with_numbers(
        diffusers.ControlNetUnionModel(
            **{
                **known,
                **small,
                "num_trans_channel": known["num_trans_channel"],
                "num_proj_channel": known["num_trans_channel"],
            }
        )
    )


CASES = {
    "sdxl": ("StableDiffusionXLPipeline", "StableDiffusionXLControlNetPipeline", "image", controlnet_for),
    "sdxl-union": ("StableDiffusionXLPipeline", "StableDiffusionXLControlNetUnionPipeline", "control_image", union_net),
    "sd3": ("StableDiffusion3Pipeline", "StableDiffusion3ControlNetPipeline", "control_image", controlnet_for),
    "flux": ("FluxPipeline", "FluxControlNetPipeline", "control_image", controlnet_for),
    "qwen": ("QwenImagePipeline", "QwenImageControlNetPipeline", "control_image", controlnet_for),
    "z-image": ("ZImagePipeline", "ZImageControlNetPipeline", "control_image", controlnet_for),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_other_families_follow_maps(case: str, tmp_path: Path) -> None:
    own, name, argument, make = CASES[case]
    family = ALL[own]
    pipeline = family.build()
    one, two = (saved(make(pipeline, seed), tmp_path, f"net-{seed}") for seed in range(2))
    on_cpu = opens_on_cpu(pipeline)
    first, second = on_cpu(one), on_cpu(two)
    maps = [picture_file(tmp_path / f"{seed}.png", family.size, family.size, seed) for seed in (1, 2)]
    cls = getattr(diffusers, name)
    parameters = inspect.signature(cls.__call__).parameters
    has_range, has_modes = "control_guidance_end" in parameters, "union" in case
    modes = [3, 1] if has_modes else [None, None]
    end = 0.6 if has_range else 1.0
    controls = [
        Control(maps[0], one, strength=0.6, end=end, mode=modes[0]),
        Control(maps[1], two, strength=0.9, mode=modes[1]),
    ]
    scale = {"controlnet_conditioning_scale": 0.6} | ({"control_guidance_end": end} if has_range else {})
    mode = {"control_mode": modes[0]} if has_modes else {}
    jobs = [
        (request(family, "text", steps=4, seed=1), {}, {}),
        (
            controlled(family, "one", name, argument, controls[:1], steps=4, seed=2),
            {"controlnet": first}, {argument: opened(maps[0]), **scale, **mode},
        ),
        (
            controlled(family, "again", name, argument, controls[:1], steps=3, seed=3),
            {"controlnet": first}, {argument: opened(maps[0]), **scale, **mode},
        ),
        (
            controlled(family, "two", name, argument, controls[1:], steps=5, seed=4),
            {"controlnet": second},
            {argument: opened(maps[1]), "controlnet_conditioning_scale": 0.9,
             **({"control_mode": modes[1]} if has_modes else {})},
        ),
    ]  # fmt: skip
    expected = {wanted.id: direct_control(pipeline, wanted, lent, **inputs) for wanted, lent, inputs in jobs}
    lane = DiffusionLane(pipeline, kind="image", open_adapter=on_cpu)
    base_bytes = lane.weight_bytes
    requests = [wanted for wanted, _, _ in jobs]
    rendered(lane, requests)
    results = rendered(lane, requests)

    for wanted in requests:
        assert gap(results[wanted.id].frames, expected[wanted.id]) <= TOLERANCE, wanted.id
    assert (
        gap(results["one"].frames, direct_control(pipeline, requests[1], {"controlnet": second}, **jobs[1][2])) > 0.01
    )
    assert results["one"].batch_peak == results["again"].batch_peak > 1
    assert lane.weight_bytes == base_bytes + one.n_bytes + two.n_bytes
    lane.drop_adapters([one.component, two.component])
    assert lane.weight_bytes == base_bytes
    lane.close()
