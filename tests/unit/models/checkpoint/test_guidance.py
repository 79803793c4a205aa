"""A request's guidance_scale sets the argument that guides the checkpoint, under that argument's own default."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from models.checkpoint.guidance import guidance_argument
from models.checkpoint.pipeline_source import pipeline_source
from models.checkpoint.read_checkpoint import read_checkpoint
from tests.support.catalogues import open_catalogue
from tests.support.checkpoints import diffusion_folder


@pytest.mark.parametrize(
    ("pipeline", "denoiser", "argument"),
    [
        ("StableDiffusionPipeline", {}, "guidance_scale"),
        ("ChromaPipeline", {}, "guidance_scale"),
        ("HiDreamImagePipeline", {}, "guidance_scale"),
        ("QwenImagePipeline", {"guidance_embeds": False}, "true_cfg_scale"),
        ("QwenImagePipeline", {}, "true_cfg_scale"),
        ("QwenImagePipeline", {"guidance_embeds": True}, "guidance_scale"),
        ("QwenImage21Pipeline", {}, "true_cfg_scale"),
        ("FluxPipeline", {"guidance_embeds": True}, "guidance_scale"),
        ("FluxPipeline", {"guidance_embeds": False}, "true_cfg_scale"),  # schnell
        ("FluxPipeline", {}, "guidance_scale"),
        ("HunyuanVideoPipeline", {"guidance_embeds": False}, "true_cfg_scale"),
        ("HunyuanImagePipeline", {"guidance_embeds": True}, "distilled_guidance_scale"),
        ("HunyuanImagePipeline", {"guidance_embeds": False}, "guidance_scale"),  # which the class does not take
        ("StableCascadeCombinedPipeline", {}, "prior_guidance_scale"),
        ("UnCLIPPipeline", {}, "guidance_scale"),  # two scales of equal rank: neither is taken for the other
    ],
)
def test_the_argument_is_the_one_that_guides(pipeline: str, denoiser: dict[str, Any], argument: str) -> None:
    source = pipeline_source(pipeline)
    assert source is not None

    assert guidance_argument(source, {"transformer": denoiser}) == argument


def qwen(folder: Path) -> Path:
    denoiser = {"guidance_embeds": False, "patch_size": 2}
    return diffusion_folder(folder, "QwenImagePipeline", denoiser=denoiser, vae={"temperal_downsample": [False]})


def test_the_default_is_that_of_the_argument(tmp_path: Path) -> None:
    spec = read_checkpoint(qwen(tmp_path / "q"), name="q", source="q", float_bytes=4)

    assert (spec.guidance_argument, spec.defaults.guidance_scale) == ("true_cfg_scale", 4.0)


def test_models_toml_may_set_the_guidance_of_a_class_that_has_it_under_another_name(tmp_path: Path) -> None:
    qwen(tmp_path / "models" / "q")
    catalogue = open_catalogue(tmp_path, "[models.q.defaults]\nguidance_scale = 2.5\n")

    assert catalogue.get("q").defaults.guidance_scale == 2.5


def test_a_class_without_any_guidance_has_no_default_for_it(tmp_path: Path) -> None:
    diffusion_folder(tmp_path / "models" / "u", "Flux2KleinKVPipeline", denoiser={}, vae={})
    catalogue = open_catalogue(tmp_path, "[models.u.defaults]\nguidance_scale = 2.5\n")

    (refused,) = catalogue.refused
    assert "defaults.guidance_scale" in refused.reason
