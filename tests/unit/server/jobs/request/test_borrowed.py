"""What a request borrows besides ControlNets, and how large an upscaler makes its picture, before a job is stored."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from benchmarks.families import FAMILIES, parts, vaes
from models.catalogue import Catalogue
from pipelines.diffusion_interface import UPSCALER, MediaFile
from server.errors import BadRequest
from server.jobs.request.generate_request import GenerateRequest, WantedImagePrompt, WantedUpscale
from server.jobs.request.resolution import ResolvedRequest, resolve
from tests.support.catalogues import open_catalogue
from tests.support.tiny_ip_adapter import ip_adapter_tensors, save_ip_adapter
from tests.support.tiny_upscaler import save_upscaler

PICTURE = MediaFile("/files/picture.png", "aa", 300, 200)
CLIP = MediaFile("/files/clip.mp4", "cc", 101, 50, num_frames=30, fps=29.97)


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Catalogue:
    folder = tmp_path_factory.mktemp("data")
    models = folder / "models"
    sd, xl = FAMILIES["StableDiffusionPipeline"].build(), FAMILIES["StableDiffusionXLPipeline"].build()
    sd.save_pretrained(models / "sd")
    FAMILIES["SanaPipeline"].save(models / "sana")
    vaes.small_vae().save_pretrained(models / "soft-vae")
    vaes.small_vae(latent_channels=8).save_pretrained(models / "other-vae")
    encoder = parts.clip_vision()
    save_ip_adapter(models / "face", ip_adapter_tensors(sd, parts.TEXT_DIM), encoder)
    save_ip_adapter(models / "a-face-of-xl", ip_adapter_tensors(xl, parts.TEXT_DIM), encoder)
    save_file({"emb_params": torch.zeros(2, parts.TEXT_DIM)}, models / "catstatue.safetensors")
    save_file({"emb_params": torch.zeros(2, 77)}, models / "alien.safetensors")
    save_upscaler(models / "sharp.safetensors", scale=4)
    return open_catalogue(folder)


def resolved(
    catalogue: Catalogue, model: str, files: Mapping[str, MediaFile] | None = None, **fields: Any
) -> ResolvedRequest:
    request = GenerateRequest(**{"prompt": "a fox", "type": "image", **fields})
    found = {place: CLIP if place == "video" else PICTURE for place in request.media} | dict(files or {})
    spec = catalogue.get(model)
    made = resolve(request, spec, drawn_seed=1, auto_dtype="float32", priority=0, files=found, models=catalogue)
    json.dumps(made.request)
    return made


def test_catalogue_has_each_adapter_by_its_kind(catalogue: Catalogue) -> None:
    assert not catalogue.refused
    kinds = {spec.name: spec.adapter for spec in catalogue.specs() if spec.adapter is not None}
    assert kinds == {
        "soft-vae": "vae", "other-vae": "vae", "face": "ip_adapter", "a-face-of-xl": "ip_adapter",
        "catstatue": "textual_inversion", "alien": "textual_inversion", "sharp": "upscaler",
    }  # fmt: skip
    assert catalogue.default_for("image") == "sana", "which needs no picture"


def test_stored_request_has_the_files_that_the_job_was_accepted_with(catalogue: Catalogue) -> None:
    face = WantedImagePrompt(images=("file_1",), strength=0.5)
    made = resolved(catalogue, "sd", vae="soft-vae", textual_inversions=("catstatue",), ip_adapter=(face,),
                    upscale=WantedUpscale(scale=1.5)).request  # fmt: skip

    assert made["vae"]["name"] == "soft-vae"
    assert [word["name"] for word in made["textual_inversions"]] == ["catstatue"]
    assert made["inputs"]["image_prompts"][0]["adapter"]["name"] == "face", "the first by name is of another family"
    assert made["upscaling"]["adapter"]["name"] == "sharp"
    assert (made["upscaling"]["width"], made["upscaling"]["height"]) == (made["width"] * 1.5, made["height"] * 1.5)


@pytest.mark.parametrize(
    ("model", "fields", "words"),
    [
        ("sd", {"vae": "other-vae"}, "vae: other-vae is of another family"),
        ("sana", {"vae": "soft-vae"}, "vae: soft-vae is of the class AutoencoderKL"),
        ("sd", {"vae": "nothing"}, "vae is not a model here. Those for sd: soft-vae"),
        ("sd", {"vae": "face"}, "vae: face is not a VAE"),
        ("sd", {"textual_inversions": ("alien",)}, "textual_inversions[0]: alien was made for another model"),
        ("sana", {"textual_inversions": ("catstatue",)}, "takes no textual inversions"),
        ("sd", {"ip_adapter": (WantedImagePrompt(images=("f",), model="a-face-of-xl"),)}, "was made for another model"),
        ("sana", {"ip_adapter": (WantedImagePrompt(images=("f",)),)}, "ip_adapter: sana does not take"),
        ("sd", {"upscale": WantedUpscale(model="face")}, "upscale.model: face is not an upscaler"),
        ("sd", {"upscale": WantedUpscale(scale=400)}, "Send a smaller scale or size"),
        ("sharp", {"image": "f", "steps": 3}, "steps: sharp does not support"),
        ("sharp", {"image": "f", "aspect_ratio": "1:1"}, "aspect_ratio: sharp keeps the shape"),
        ("sharp", {}, "sharp needs more inputs"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_field_and_what_does(
    catalogue: Catalogue, model: str, fields: dict[str, Any], words: str
) -> None:
    with pytest.raises(BadRequest) as refused:
        resolved(catalogue, model, **fields)
    assert words in str(refused.value)


@pytest.mark.parametrize(
    ("fields", "size"),
    [
        ({}, (1200, 800)),
        ({"upscale": WantedUpscale(scale=2)}, (600, 400)),
        ({"upscale": WantedUpscale(model="sharp", scale=1.5)}, (450, 300)),
        ({"width": 500, "height": 500}, (500, 500)),
    ],
)
def test_upscaler_makes_the_size_of_the_picture_times_its_factor_or_what_is_asked_for(
    catalogue: Catalogue, fields: dict[str, Any], size: tuple[int, int]
) -> None:
    made = resolved(catalogue, "sharp", image="f", prompt="", speed="fast", **fields)

    assert (made.request["width"], made.request["height"]) == size
    assert made.request["pipeline"] == UPSCALER
    assert made.request["upscaling"] is None
    assert (made.request["steps"], made.request["speed"]) == (1 if size == (500, 500) else 2, "exact")
    assert made.warnings == () or size == (500, 500)  # of which a part was cut off


def test_upscaler_keeps_the_frames_of_a_clip_and_makes_its_sides_even(catalogue: Catalogue) -> None:
    made = resolved(catalogue, "sharp", type="video", video="f", prompt="", upscale=WantedUpscale(scale=1.5)).request

    assert (made["width"], made["height"]) == (152, 76)
    assert (made["num_frames"], made["fps"], made["steps"]) == (30, 30, 30)


def test_picture_or_clip_that_would_get_too_large_is_refused(catalogue: Catalogue) -> None:
    large = MediaFile("/files/large.png", "bb", 2000, 2000)
    with pytest.raises(BadRequest, match="image: 8000x8000 is more than"):
        resolved(catalogue, "sharp", {"image": large}, image="f")
    long = MediaFile("/files/long.mp4", "dd", 480, 270, num_frames=400, fps=24.0)
    with pytest.raises(BadRequest, match="400 frames of 1920x1080"):
        resolved(catalogue, "sharp", {"video": long}, type="video", video="f")


def test_file_that_was_removed_is_told(catalogue: Catalogue) -> None:
    spec = catalogue.get("catstatue")
    assert spec.path is not None
    kept, moved = Path(spec.path), spec.path.with_suffix(".away")
    kept.rename(moved)
    try:
        with pytest.raises(BadRequest, match=r"textual_inversions\[0\]|removed"):
            resolved(catalogue, "sd", textual_inversions=("catstatue",))
    finally:
        moved.rename(kept)


def test_no_textual_inversion_is_named_twice(catalogue: Catalogue) -> None:
    with pytest.raises(BadRequest, match="textual_inversions names one more than once"):
        resolved(catalogue, "sd", textual_inversions=("catstatue", "catstatue"))
