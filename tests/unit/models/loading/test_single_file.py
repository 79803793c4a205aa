"""One file is a model: a denoiser with a base that lends the rest, a GGUF, and the knobs a checkpoint is loaded with."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from models.catalogue import Catalogue
from models.errors import LoadFailed
from models.loading.load import load
from models.spec import ModelSpec
from pipelines.diffusion.lane import DiffusionLane
from tests.support.lane_play import rendered, request
from tests.support.stock_families import FAMILIES, stable_diffusion
from tests.unit.models.loading.test_load import save_chat

pytestmark = pytest.mark.slow


def catalogue(data_dir: Path, toml: str = "") -> Catalogue:
    (data_dir / "models.toml").write_text(toml)
    return Catalogue.open(data_dir=data_dir, cache_dir=data_dir / "cache", builtin=data_dir / "none")


def picture(spec: ModelSpec, family: str = "sd15", **wanted: Any) -> Any:
    lane = load(spec, device="cpu", merging="off")
    assert isinstance(lane, DiffusionLane)
    return rendered(lane, [request(FAMILIES[family], "1", **wanted)])["1"].frames


def write_gguf(weights: Path, file: Path, architecture: str) -> None:
    writer = gguf.GGUFWriter(file, architecture)
    for name, tensor in load_file(weights).items():
        writer.add_tensor(name, tensor.float().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize("suffix", ["safetensors", "gguf"])
def test_a_denoiser_in_one_file_makes_the_picture_that_its_pipeline_makes(tmp_path: Path, suffix: str) -> None:
    """The base has no weights of the denoiser, so they can only come from the file."""
    FAMILIES["flux"].build().save_pretrained(tmp_path / "whole")
    weights = tmp_path / "whole/transformer/diffusion_pytorch_model.safetensors"
    shutil.copytree(tmp_path / "whole", tmp_path / "base")
    (tmp_path / "base/transformer/diffusion_pytorch_model.safetensors").unlink()
    file = tmp_path / f"denoiser.{suffix}"
    if suffix == "gguf":
        write_gguf(weights, file, "flux")
    else:
        file.write_bytes(weights.read_bytes())
    toml = f'[models.whole]\nsource = "whole"\n[models.one]\nsource = "denoiser.{suffix}"\nload.base = "base"\n'
    found = catalogue(tmp_path, toml)

    assert found.refused == ()
    assert found.get("one").type == "image"
    np.testing.assert_allclose(picture(found.get("one"), "flux"), picture(found.get("whole"), "flux"), atol=1e-4)


def test_a_file_whose_family_nobody_knows_asks_for_a_base(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    save_file({"strange.weight": torch.zeros(2)}, tmp_path / "models/strange.safetensors")

    (refused,) = catalogue(tmp_path).refused

    assert "name a pipeline folder or hub id as its base" in refused.reason


def test_a_file_of_sd_15_is_known_by_its_tensors_and_says_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    names = (
        "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight",
        "first_stage_model.encoder.conv_in.weight",
        "model.diffusion_model.input_blocks.0.0.weight",
    )
    save_file({name: torch.zeros(2) for name in names}, tmp_path / "models/civitai.safetensors")

    (refused,) = catalogue(tmp_path).refused

    assert "agentname pull wheel:open-clip-torch==3.3.0" in refused.reason


# The trial


def tiny_sd(tmp_path: Path) -> ModelSpec:
    stable_diffusion().save_pretrained(tmp_path / "models/sd")
    return catalogue(tmp_path).get("sd")


def test_weights_that_are_not_numbers_fail_the_trial_and_sound_ones_pass_it_once(tmp_path: Path) -> None:
    spec, proven = tiny_sd(tmp_path), set[str]()
    load(spec, device="cpu", proven=proven)
    assert proven == {spec.fingerprint}

    file = tmp_path / "models/sd/unet/diffusion_pytorch_model.safetensors"
    save_file({name: torch.full_like(tensor, float("nan")) for name, tensor in load_file(file).items()}, file)
    with pytest.raises(LoadFailed, match="not numbers"):
        load(catalogue(tmp_path).get("sd"), device="cpu", proven=proven)


def test_a_language_model_of_nothing_but_nan_fails_the_trial(tmp_path: Path) -> None:
    save_chat(tmp_path / "models/tiny")
    file = tmp_path / "models/tiny/model.safetensors"
    save_file({name: torch.full_like(tensor, float("nan")) for name, tensor in load_file(file).items()}, file)

    with pytest.raises(LoadFailed, match="weights are broken"):
        load(catalogue(tmp_path).get("tiny"), device="cpu", cache_bytes=4 << 20, proven=set())
