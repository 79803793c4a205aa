"""A request becomes the arguments that its stock pipeline has, under that pipeline's own names."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pipelines.diffusion.arguments import Arguments
from pipelines.diffusion_interface import DiffusionRequest

CLIP = DiffusionRequest(
    id="a", prompt="waves", negative_prompt=None, width=64, height=64, num_frames=9, fps=12, steps=2,
    guidance_scale=None, seed=1,
)  # fmt: skip


class TakesFrameRate:
    def __call__(
        self, prompt: str, width: int, height: int, num_frames: int, num_inference_steps: int, frame_rate: int = 25
    ) -> Any: ...


class TakesFps:
    def __call__(
        self, prompt: str, width: int, height: int, num_frames: int, num_inference_steps: int, fps: int = 24
    ) -> Any: ...


class TakesNoRate:
    def __call__(self, prompt: str, width: int, height: int, num_frames: int, num_inference_steps: int) -> Any: ...


@pytest.mark.parametrize(("pipeline", "argument"), [(TakesFrameRate, "frame_rate"), (TakesFps, "fps")])
def test_the_frame_rate_is_passed_under_the_name_that_the_pipeline_has_for_it(pipeline: type, argument: str) -> None:
    assert Arguments(pipeline).for_request(CLIP)[argument] == 12
    assert argument not in Arguments(pipeline).for_request(replace(CLIP, fps=None)), "the pipeline's own default stays"
    assert Arguments(pipeline).for_request(replace(CLIP, call={argument: 30}))[argument] == 30, (
        "an explicit argument wins"
    )


def test_a_pipeline_without_a_frame_rate_gets_none() -> None:
    assert not {"fps", "frame_rate"} & Arguments(TakesNoRate).for_request(CLIP).keys()
