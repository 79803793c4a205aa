"""A field of a request that changed nothing is named in a warning; one that changed something is not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from transformers import CLIPConfig, CLIPImageProcessor, CLIPTextConfig, CLIPVisionConfig

from benchmarks.families import FAMILIES
from pipelines.diffusion.lane import DiffusionLane
from pipelines.diffusion.without_effect import other_size
from pipelines.diffusion_interface import DiffusionRequest
from tests.support.lanes.lane_play import gap, rendered, request

NEEDS_SCALE = "negative_prompt has no effect: this model needs {} above 1 for it."


def lane_of(name: str, **config: Any) -> DiffusionLane:
    """config: of the pipeline itself."""
    pipeline = FAMILIES[name].build()
    pipeline.register_to_config(**config)
    return DiffusionLane(pipeline, kind=FAMILIES[name].kind)


def other_arguments(family: str) -> dict[str, object]:
    """What the tiny pipeline needs besides its guidance."""
    return {name: value for name, value in FAMILIES[family].call.items() if name != "true_cfg_scale"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "config", "argument", "scale", "negative", "warnings"),
    [
        ("StableDiffusionPipeline", {}, "guidance_scale", 4.0, "dull", []),
        ("StableDiffusionPipeline", {}, "guidance_scale", 1.0, "dull",
         ["negative_prompt has no effect at guidance_scale 1."]),
        ("StableDiffusionPipeline", {}, "guidance_scale", 0.5, "", []),
        ("QwenImagePipeline", {}, "true_cfg_scale", 4.0, "dull", []),
        ("QwenImagePipeline", {}, "true_cfg_scale", 1.0, "dull", [NEEDS_SCALE.format("a guidance_scale")]),
        ("QwenImagePipeline", {}, "true_cfg_scale", 4.0, None,
         ["guidance_scale has no effect without a negative_prompt, which may be empty."]),
        ("FluxPipeline", {}, "guidance_scale", 4.0, "dull",
         [NEEDS_SCALE.format("a call.true_cfg_scale in the model's entry")]),
        ("Flux2KleinPipeline", {"is_distilled": True}, "guidance_scale", 4.0, None,
         ["guidance_scale has no effect: this model is distilled and runs without it."]),
        ("Flux2KleinPipeline", {"is_distilled": False}, "guidance_scale", 4.0, None, []),
        ("StableDiffusionPanoramaPipeline", {}, "guidance_scale", 4.0, "dull", []),  # its property is always false
        ("ZImagePipeline", {}, "guidance_scale", 1.0, "dull", []),  # guided from 0
        ("KandinskyCombinedPipeline", {}, "guidance_scale", 4.0, "dull", []),  # by the pipelines that it combines
    ],
)  # fmt: skip
def test_guidance_and_negative_prompts_that_change_nothing_are_named(
    family: str, config: dict[str, Any], argument: str, scale: float, negative: str | None, warnings: list[str]
) -> None:
    lane = lane_of(family, **config)
    wanted = request(
        FAMILIES[family], "a", guidance_scale=scale, guidance_argument=argument, negative_prompt=negative,
        asked=("guidance_scale",), call=other_arguments(family), steps=1,
    )  # fmt: skip

    assert list(rendered(lane, [wanted])["a"].warnings) == warnings
    lane.close()


@pytest.mark.slow
def test_the_guidance_of_qwen_image_guides() -> None:
    family = FAMILIES["QwenImagePipeline"]
    lane = lane_of("QwenImagePipeline")
    low, high = (
        request(
            family,
            name,
            guidance_scale=scale,
            guidance_argument="true_cfg_scale",
            negative_prompt="dull",
            call=other_arguments("QwenImagePipeline"),
        )
        for name, scale in (("low", 1.5), ("high", 9.0))
    )
    done = rendered(lane, [low, high])

    assert gap(done["low"].frames, done["high"].frames) > 1e-3
    lane.close()


@pytest.mark.slow
def test_steps_that_a_fixed_schedule_replaces_are_named() -> None:
    lane = lane_of("FluxPipeline")
    wanted = request(FAMILIES["FluxPipeline"], "a", asked=("steps",), call={"sigmas": [1.0, 0.5]})

    assert rendered(lane, [wanted])["a"].warnings == ("steps has no effect: the model's entry sets call.sigmas.",)
    lane.close()


def test_a_size_that_stock_code_rounded_is_named() -> None:
    clip = DiffusionRequest(
        id="a", prompt="", negative_prompt=None, width=48, height=40, num_frames=6, steps=1, guidance_scale=None, seed=0
    )

    assert other_size(np.zeros((6, 40, 48, 3)), clip) == []
    assert other_size(np.zeros((5, 32, 48, 3)), clip) == [
        "The output has 48x32 pixels instead of 48x40.",
        "The clip has 5 frames instead of 6.",
    ]


def checker(threshold: float) -> tuple[StableDiffusionSafetyChecker, CLIPImageProcessor]:
    """A tiny safety checker that flags each picture (threshold -1) or none (2)."""
    torch.manual_seed(0)
    small = {"intermediate_size": 32, "num_attention_heads": 2}
    text = CLIPTextConfig(hidden_size=16, num_hidden_layers=1, vocab_size=20, **small)
    vision = CLIPVisionConfig(hidden_size=32, num_hidden_layers=1, image_size=32, patch_size=8, **small)
    config = CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=16)
    safety_checker = StableDiffusionSafetyChecker(config).eval()
    safety_checker.special_care_embeds_weights.data.fill_(2.0)
    safety_checker.concept_embeds_weights.data.fill_(threshold)
    size = {"height": 32, "width": 32}
    return safety_checker, CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=size)


@pytest.mark.slow
@pytest.mark.parametrize(("threshold", "flagged"), [(-1.0, True), (2.0, False)])
def test_a_picture_that_the_safety_checker_blacked_out_is_flagged(threshold: float, flagged: bool) -> None:
    family = FAMILIES["StableDiffusionPipeline"]
    pipeline = family.build()
    safety_checker, extractor = checker(threshold)
    pipeline.register_modules(safety_checker=safety_checker, feature_extractor=extractor)
    lane = DiffusionLane(pipeline, kind="image")

    done = rendered(lane, [request(family, "a", steps=1)])["a"]

    assert done.flagged == flagged
    assert (float(done.frames.max()) == 0) == flagged
    warning = "The model's safety checker flagged this output and blacked it out."
    assert done.warnings == ((warning,) if flagged else ())
    lane.close()
