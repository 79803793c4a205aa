"""Jobs of different tasks over one checkpoint share forwards, and equal the stock classes called directly.

Four jobs at once of different kind, size, strength and seed. Tolerance: two steps of 8 bits; measured: 1e-6 in [0, 1].
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers.pipelines.ltx.pipeline_ltx_condition import LTXVideoCondition
from PIL import Image

from benchmarks.families import vaes
from pipelines.diffusion.lane import DiffusionLane
from pipelines.diffusion_interface import DiffusionRequest, MediaFile
from pipelines.interface import Rendered
from tests.support.lanes.lane_play import ends, gap, rendered, request, wait_for_inputs
from tests.support.lanes.picture_jobs import clip_file, direct_task, frames, mask_file, picture_file, task
from tests.support.lanes.stock_families import FAMILIES, Family

TOLERANCE = 2 / 255
SEVERAL = ("text", "image", "mask")  # kinds of which jobs at one size have to share forwards with each other

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning"),
]

Job = tuple[DiffusionRequest, dict[str, Any]]  # a request, and the inputs of the direct call


def test_stable_diffusion(tmp_path: Path) -> None:
    check(FAMILIES["sd15"], of_pictures("sd15", "StableDiffusion", tmp_path))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_vae_that_some_jobs_run_in_float32_stays_as_it_is_for_the_others(dtype: torch.dtype, tmp_path: Path) -> None:
    """Image-to-image and inpainting of SDXL do, and with float16 all jobs when they decode."""
    family = FAMILIES["sdxl"]
    pipeline = family.build().to(dtype)
    jobs = of_pictures("sdxl", "StableDiffusionXL", tmp_path)
    expected = {wanted.id: direct_task(pipeline, wanted, **inputs) for wanted, inputs in jobs}
    before = [parameter.data.clone() for parameter in pipeline.vae.parameters()]
    lane = DiffusionLane(pipeline, kind="image")
    n_bytes = lane.weight_bytes
    for wanted, _ in jobs:
        lane.admit(wanted)
    wait_for_inputs(lane)
    updates = []
    while lane.has_work():
        updates += lane.step(should_yield=lambda: True)
        assert lane.mid_forward or pipeline.vae.dtype == dtype
    assert lane.weight_bytes == n_bytes
    lane.close()
    results = ends(updates)

    for name, frames_of_library in expected.items():
        end = results[name]
        assert isinstance(end, Rendered), end
        assert gap(end.frames, frames_of_library) <= 0.05, "steps in low precision amplify what merging rounds"
    assert all(map(torch.equal, before, pipeline.vae.parameters()))


@pytest.mark.parametrize("name", ["sdxl", "flux"])
def test_other_families_of_pictures(name: str, tmp_path: Path) -> None:
    check(FAMILIES[name], of_pictures(name, {"sdxl": "StableDiffusionXL", "flux": "Flux"}[name], tmp_path))


def test_stable_diffusion_3_with_the_16_channels_that_its_inpainting_requires(tmp_path: Path) -> None:
    family = FAMILIES["sd3"]

    def components() -> dict[str, Any]:
        usual = family.components()
        config = {**usual["transformer"].config, "in_channels": 16, "out_channels": 16}
        transformer = diffusers.SD3Transformer2DModel.from_config(config)
        return {**usual, "transformer": transformer, "vae": vaes.flow_vae(16)}

    check(replace(family, components=components), of_pictures("sd3", "StableDiffusion3", tmp_path))


def test_ltx_starts_from_a_picture_and_ends_with_another(tmp_path: Path) -> None:
    family = FAMILIES["ltx"]
    assert family.num_frames is not None

    def components() -> dict[str, Any]:
        return {**family.components(), "scheduler": diffusers.FlowMatchEulerDiscreteScheduler()}

    size = family.size, family.size
    first, last = (picture_file(tmp_path / f"{seed}.png", *size, seed) for seed in range(2))
    moves: Any = {"pipeline": "LTXImageToVideoPipeline", "arguments": {"image": "image"}}
    between: Any = {"image": "conditions", "last_image": "conditions"}
    ends = [
        LTXVideoCondition(image=opened(first)),
        LTXVideoCondition(image=opened(last), frame_index=family.num_frames - 1),
    ]
    jobs: list[Job] = [
        (request(family, "text", steps=4, seed=1), {}),
        (task(family, "image", files={"image": first}, steps=4, seed=2, **moves), {"image": opened(first)}),
        (task(family, "again", files={"image": last}, steps=3, seed=3, **moves), {"image": opened(last)}),
        (
            task(family, "ends", "LTXConditionPipeline", between, {"image": first, "last_image": last}, seed=4),
            {"conditions": ends},
        ),
    ]
    check(replace(family, components=components), jobs, together=("image", "again"))


def test_wan_changes_a_clip_beside_one_from_text(tmp_path: Path) -> None:
    family = FAMILIES["wan"]
    assert family.num_frames is not None
    clip = clip_file(tmp_path / "clip.mp4", family.size, family.size, family.num_frames)
    jobs: list[Job] = [
        (request(family, "text", steps=4, seed=1, fps=8), {}),
        (
            task(family, "clip", "WanVideoToVideoPipeline", {"video": "video"}, {"video": clip}, strength=0.7, fps=8),
            {"video": frames(clip)},
        ),
    ]
    check(family, jobs, together=("text", "clip"))


def of_pictures(name: str, prefix: str, folder: Path) -> list[Job]:
    """prefix: of the names of the classes for image-to-image and inpainting."""
    family = FAMILIES[name]
    size, other = family.size, family.other_size
    photo, wide = picture_file(folder / "photo.png", size, size), picture_file(folder / "wide.png", other, size, 1)
    mask = mask_file(folder / "mask.png", size, size)
    changes: Any = {"pipeline": f"{prefix}Img2ImgPipeline", "arguments": {"image": "image"}}
    repaints: Any = {"pipeline": f"{prefix}InpaintPipeline", "arguments": {"image": "image", "mask": "mask_image"}}
    both = {"image": photo, "mask": mask}
    return [
        (request(family, "text", steps=4, seed=1), {}),
        (
            task(family, "image", files={"image": photo}, steps=8, strength=0.6, seed=2, **changes),
            {"image": opened(photo)},
        ),
        (
            task(family, "mask", files=both, steps=6, strength=0.9, seed=3, prompt="a hill", **repaints),
            {"image": opened(photo), "mask_image": opened(mask)},
        ),
        (
            task(family, "wide", files={"image": wide}, steps=5, strength=0.8, width=other, seed=4, **changes),
            {"image": opened(wide)},
        ),
    ]


def opened(file: MediaFile) -> Image.Image:
    with Image.open(file.path) as picture:
        return picture.copy()


def check(family: Family, jobs: list[Job], together: tuple[str, ...] = SEVERAL) -> None:
    pipeline = family.build()
    expected = {wanted.id: direct_task(pipeline, wanted, **inputs) for wanted, inputs in jobs}
    lane = DiffusionLane(pipeline, kind=family.kind)
    n_bytes = lane.weight_bytes
    requests = [wanted for wanted, _ in jobs]
    rendered(lane, requests)  # proves what merges
    results = rendered(lane, requests)

    for wanted in requests:
        assert gap(results[wanted.id].frames, expected[wanted.id]) <= TOLERANCE, wanted.id
        assert results[wanted.id].warnings == ()
        assert results[wanted.id].batch_peak > 1 or wanted.id not in together, wanted.id
    assert lane.weight_bytes == n_bytes, "other tasks bring no weights of their own"
    lane.close()
