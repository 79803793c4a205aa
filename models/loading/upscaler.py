"""Opens an upscaler as a model of its own: a pipeline that makes pictures larger. Device thread only."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from models.errors import BadModel
from models.spec import ModelSpec
from pipelines.upscaling.upscaler import BadUpscaler, Upscaler, open_upscaler


def upscaler_builder(
    spec: ModelSpec, path: Path, device: str, dtype: torch.dtype
) -> Callable[[], tuple[Any, list[str]]]:
    """As `pipeline_builder` for a checkpoint of diffusers."""

    def build() -> tuple[Any, list[str]]:
        from pipelines.upscaling.pipeline import UpscalerPipeline

        pipeline = UpscalerPipeline(checked_upscaler(path, dtype, device, spec.scale))
        pipeline.set_progress_bar_config(disable=True)
        return pipeline, []

    return build


def checked_upscaler(path: Path, dtype: torch.dtype, device: str, scale: int | None) -> Upscaler:
    """scale: by which the catalogue says that it enlarges. Raises `BadModel`."""
    try:
        upscaler = open_upscaler(path, dtype, device)
    except BadUpscaler as error:
        raise BadModel(str(error)) from error
    except ImportError as error:
        raise BadModel("it needs spandrel; try: pip install 'agentname[upscalers]'", detail=str(error)) from error
    if scale is not None and upscaler.scale != scale:
        raise BadModel(f"it enlarges by {upscaler.scale}, its entry says scale = {scale}")
    return upscaler
