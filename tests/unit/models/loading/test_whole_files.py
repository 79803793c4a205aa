"""A full checkpoint in one file, as on Civitai, makes the picture of its pipeline: SD 1.5, SDXL and SD 3.

A full file of Flux is not tested: the library's converter knows its denoiser at full width only, which takes gigabytes.
"""

from __future__ import annotations

import json
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from diffusers.loaders.single_file_utils import (
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    convert_sd3_transformer_checkpoint_to_diffusers,
)

from models.checkpoint.single_file_families import FAMILIES as FAMILIES_OF_FILES
from models.sources.clip_vocabulary import CONFIGS
from tests.support.catalogues import open_catalogue
from tests.support.lanes.loaded_models import load_and_render, load_diffusion
from tests.support.lanes.original_layout import mmdit_of, unet_of, vae_of, write_whole_file
from tests.support.lanes.whole_files import as_folder_and_as_file, tiny_pipeline, tiny_sd3

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("xl", [False, True], ids=["sd15", "sdxl"])
def test_a_whole_file_in_the_original_layout_makes_the_picture_that_its_pipeline_makes(
    tmp_path: Path, xl: bool
) -> None:
    found = as_folder_and_as_file(tmp_path, tiny_pipeline(xl))

    assert found.refused == ()
    assert found.get("one").weight_bytes == pytest.approx(found.get("whole").weight_bytes, rel=0.01)
    np.testing.assert_allclose(load_and_render(found.get("one")), load_and_render(found.get("whole")), atol=1e-4)


@pytest.mark.parametrize("newer", [False, True], ids=["sd3", "sd35"])
def test_a_whole_file_of_sd_3_makes_the_picture_that_its_pipeline_makes(tmp_path: Path, newer: bool) -> None:
    found = as_folder_and_as_file(tmp_path, tiny_sd3(newer))

    assert found.refused == ()
    assert found.get("one").weight_bytes == pytest.approx(found.get("whole").weight_bytes, rel=0.05)
    from_file, from_folder = (load_and_render(found.get(name), "sd3") for name in ("one", "whole"))
    np.testing.assert_allclose(from_file, from_folder, atol=1e-4)


@pytest.mark.parametrize("lends_weights", [True, False])
def test_a_file_of_sd_3_without_t5_uses_that_of_its_base_or_none(tmp_path: Path, lends_weights: bool) -> None:
    tiny_sd3(newer=False, t5=True).save_pretrained(tmp_path / "base")
    write_whole_file(tmp_path / "base", tmp_path / "civitai.safetensors")
    if not lends_weights:
        (tmp_path / "base/text_encoder_3/model.safetensors").unlink()
    toml = '[models.one]\nsource = "civitai.safetensors"\nload.base = "base"\n'
    spec = open_catalogue(tmp_path, toml).get("one")

    lane = load_diffusion(spec, merging="off")

    assert (lane.pipeline.text_encoder_3 is not None) == lends_weights
    assert lane.weight_bytes == pytest.approx(spec.weight_bytes, rel=0.05)


@pytest.mark.parametrize("name", ["sd3", "sd35-medium", "sd35-large"])
def test_the_shipped_configs_of_sd_3_fit_its_layout_tensor_for_tensor(name: str) -> None:
    folder = CONFIGS / name
    with torch.device("meta"):
        config = diffusers.SD3Transformer2DModel.load_config(folder / "transformer")
        model = diffusers.SD3Transformer2DModel.from_config(config)
    original = mmdit_of(model.state_dict())

    converted = convert_sd3_transformer_checkpoint_to_diffusers(dict(original))

    assert {n: t.shape for n, t in converted.items()} == {n: t.shape for n, t in model.state_dict().items()}
    marked = next(family for family in FAMILIES_OF_FILES if family.marker in original)
    assert marked.shipped_configs == name
    # diffusers tells SD 3 and 3.5 medium apart by the number of positions
    positions = {"sd3": 36864, "sd35-medium": 147456}
    assert original["pos_embed"].shape[1] == positions.get(name, 36864)


@pytest.mark.parametrize("name", ["sd15", "sdxl"])
def test_the_shipped_configs_fit_the_real_files_tensor_for_tensor(name: str) -> None:
    """The weights are on the meta device, which holds names and shapes but no memory."""
    folder = CONFIGS / name
    config = json.loads((folder / "unet/config.json").read_text())
    with torch.device("meta"):
        unet = diffusers.UNet2DConditionModel.from_config(diffusers.UNet2DConditionModel.load_config(folder / "unet"))
        vae = diffusers.AutoencoderKL.from_config(diffusers.AutoencoderKL.load_config(folder / "vae"))
    original = {
        f"model.diffusion_model.{n}": t for n, t in unet_of(unet.state_dict(), config["layers_per_block"]).items()
    }
    original |= {f"first_stage_model.{n}": t for n, t in vae_of(vae.state_dict()).items()}

    converted_unet = convert_ldm_unet_checkpoint(dict(original), config=unet.config)
    converted_vae = convert_ldm_vae_checkpoint(dict(original), config=vae.config)

    for model, found in ((unet, converted_unet), (vae, converted_vae)):
        wanted = {n: t.numel() for n, t in model.state_dict().items()}
        assert {n: t.numel() for n, t in found.items()} == wanted
    marker = next(family.marker for family in FAMILIES_OF_FILES if family.shipped_configs == name)
    n_tensors = {"sd15": 686 + 248, "sdxl": 1680 + 248}[name]  # as in the published files, without text encoders
    assert len(original) == n_tensors
    assert not any(other.marker in original for other in FAMILIES_OF_FILES if other.marker != marker)
