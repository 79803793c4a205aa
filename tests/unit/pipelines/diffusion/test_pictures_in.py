"""Image-to-image and inpainting in the lane equal the stock class called directly with the same pictures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipelines.diffusion.lane import DiffusionLane
from pipelines.diffusion_interface import DiffusionRequest, Inputs, MediaFile
from pipelines.interface import Failed
from tests.support.lanes.lane_play import ends, gap, play, rendered, request
from tests.support.lanes.stock_families import FAMILIES

SD = FAMILIES["sd15"]
MERGED = 1e-4
pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning"),
]


@pytest.fixture(scope="module")
def sd() -> Any:
    pipeline = SD.build()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture
def lane(sd: Any) -> Iterator[DiffusionLane]:
    lane = DiffusionLane(sd, kind="image")
    yield lane
    lane.close()


@pytest.fixture
def photo(tmp_path: Path) -> MediaFile:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return MediaFile(str(tmp_path / "photo.png"), "0" * 64, 32, 32)


def image_to_image(photo: MediaFile, name: str, **wanted: Any) -> DiffusionRequest:
    usual = {
        "pipeline": "StableDiffusionImg2ImgPipeline",
        "inputs": Inputs(image=photo),
        "input_arguments": {"image": "image"},
        "strength": 0.6,
        "steps": 5,
    }
    return request(SD, name, **{**usual, **wanted})


def test_a_picture_is_changed_by_the_modules_that_make_pictures_from_text(
    lane: DiffusionLane, photo: MediaFile
) -> None:
    import diffusers
    import torch

    wanted = image_to_image(photo, "a")
    stock: Any = diffusers.StableDiffusionImg2ImgPipeline(**lane.pipeline.components, requires_safety_checker=False)
    stock.set_progress_bar_config(disable=True)
    expected = stock(
        prompt=wanted.prompt,
        image=Image.open(photo.path),
        strength=0.6,
        num_inference_steps=5,
        guidance_scale=4.0,
        generator=torch.Generator("cpu").manual_seed(wanted.seed),
        output_type="np",
    )[0]
    results = rendered(lane, [wanted])

    assert gap(results["a"].frames, expected) <= MERGED


def test_a_file_that_is_gone_fails_its_request_alone(lane: DiffusionLane, photo: MediaFile, tmp_path: Path) -> None:
    gone = MediaFile(str(tmp_path / "gone.png"), "0" * 64, 32, 32)
    lane.admit(image_to_image(gone, "bad"))
    lane.admit(request(SD, "good"))
    done = ends(play(lane))

    bad = done["bad"]
    assert isinstance(bad, Failed)
    assert (bad.code, bad.message) == ("bad_request", "The file of image is gone.")
    assert not isinstance(done["good"], Failed)
