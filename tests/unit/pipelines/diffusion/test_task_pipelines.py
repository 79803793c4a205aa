"""Pipelines of other tasks share the modules of a checkpoint, and change nothing that other tasks use."""

from __future__ import annotations

from typing import Any

import diffusers
import pytest

from benchmarks.families.unets import motion_adapter
from pipelines.diffusion.task_pipelines import TaskPipelines, UnknownPipeline
from tests.support.lanes.stock_families import FAMILIES

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def sd() -> Any:
    return FAMILIES["sd15"].build()


def test_modules_tokenizers_and_settings_are_those_of_the_checkpoint(sd: Any) -> None:
    made = TaskPipelines(sd).get("StableDiffusionImg2ImgPipeline")

    assert type(made) is diffusers.StableDiffusionImg2ImgPipeline
    assert {name for name in sd.components if getattr(made, name) is not getattr(sd, name)} == {"scheduler"}
    assert made.scheduler.config == sd.scheduler.config
    assert made.config.requires_safety_checker is sd.config.requires_safety_checker is False


def test_a_class_is_made_once_and_the_checkpoints_own_is_itself(sd: Any) -> None:
    pipelines = TaskPipelines(sd)

    assert pipelines.get(None) is pipelines.get("StableDiffusionPipeline") is sd
    assert pipelines.get("StableDiffusionImg2ImgPipeline") is pipelines.get("StableDiffusionImg2ImgPipeline")


def test_a_constructor_that_corrects_the_noise_scheduler_corrects_only_its_own(sd: Any) -> None:
    own = diffusers.StableDiffusionPipeline(
        **{**sd.components, "scheduler": diffusers.PNDMScheduler(skip_prk_steps=False, steps_offset=1)},
        requires_safety_checker=False,
    )
    made = TaskPipelines(own).get("StableDiffusionInpaintPipeline")

    assert made.scheduler.config.skip_prk_steps is True
    assert own.scheduler.config.skip_prk_steps is False


def test_a_class_that_would_hold_another_module_or_lacks_one_does_not_fit(sd: Any) -> None:
    pipelines = TaskPipelines(sd)

    with pytest.raises(UnknownPipeline, match="it changes its unet"):
        pipelines.get("AnimateDiffPipeline", {"motion_adapter": motion_adapter()})
    for name in ("FluxPipeline", "StableDiffusionControlNetPipeline"):
        with pytest.raises(UnknownPipeline, match=f"{name} does not fit this model"):
            pipelines.get(name)
