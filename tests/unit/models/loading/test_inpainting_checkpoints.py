"""A checkpoint for inpainting whose files do not say so, as folder and as single file, is served for inpainting."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import diffusers
import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from pipelines.diffusion_interface import Inputs
from tests.support.catalogues import open_catalogue
from tests.support.lanes.lane_play import gap, rendered, request
from tests.support.lanes.loaded_models import load_diffusion
from tests.support.lanes.original_layout import unet_of
from tests.support.lanes.picture_jobs import mask_file, picture_file
from tests.support.lanes.stock_families import FAMILIES
from tests.support.lanes.whole_files import tiny_pipeline


@pytest.mark.slow
def test_a_unet_with_nine_channels_makes_an_inpainting_model(tmp_path: Path) -> None:
    """Case 28: such checkpoints have the class for prompts alone, and each of their jobs would fail."""
    pipeline = tiny_pipeline(xl=False)
    pipeline.save_pretrained(tmp_path / "base")
    unet = diffusers.UNet2DConditionModel.from_config(pipeline.unet.config, in_channels=9)
    pipeline.register_modules(unet=unet)
    pipeline.save_pretrained(tmp_path / "folder")
    weights = load_file(tmp_path / "folder/unet/diffusion_pytorch_model.safetensors")
    save_file({n: t.contiguous() for n, t in unet_of(weights, 2).items()}, tmp_path / "file.safetensors")
    toml = '[models.folder]\nsource = "folder"\n[models.file]\nsource = "file.safetensors"\nload.base = "base"\n'
    found = open_catalogue(tmp_path, toml)
    picture, mask = picture_file(tmp_path / "p.png", 32, 32), mask_file(tmp_path / "m.png", 32, 32)
    frames = {}

    for name in ("folder", "file"):
        spec = found.get(name)
        assert (spec.pipeline, spec.tasks[0].required) == ("StableDiffusionInpaintPipeline", {"image", "mask"})
        assert spec.notes == ("Served as StableDiffusionInpaintPipeline: its U-Net takes a picture and a mask.",)
        lane = load_diffusion(spec, merging="off", smoke_tested=set())
        job = replace(
            request(FAMILIES["sd15"], "1"),
            width=32,
            height=32,
            pipeline=spec.pipeline,
            inputs=Inputs(image=picture, mask=mask),
            input_arguments=spec.tasks[0].inputs,
        )
        frames[name] = rendered(lane, [job])["1"].frames
        lane.close()

    assert np.ptp(frames["folder"]) > 0
    assert gap(frames["file"], frames["folder"]) <= 1e-4
