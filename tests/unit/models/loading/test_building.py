"""A pipeline is built with its load options, and from a single file, as diffusers itself would build it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import diffusers
import gguf
import numpy as np
import pytest
import torch
from diffusers.models.attention_dispatch import AttentionBackendName, _AttentionBackendRegistry
from safetensors.torch import load_file, save_file

from pipelines.diffusion.lane import DiffusionLane
from tests.support.catalogues import open_catalogue
from tests.support.lanes.lane_play import direct, gap, request
from tests.support.lanes.loaded_models import load_and_render, load_diffusion, render
from tests.support.lanes.original_layout import vae_of
from tests.support.lanes.stock_families import FAMILIES

pytestmark = pytest.mark.slow

MERGED = 1e-4  # the largest difference that batched kernels cause in a pixel, of 0 … 1
FAMILY_OF_MODEL = {"sd": "sd15", "xl": "sdxl", "flux": "flux"}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Saves a Stable Diffusion, an SDXL and a Flux, and a textual inversion for each of the first two."""
    folder = tmp_path_factory.mktemp("saved")
    for name, family in FAMILY_OF_MODEL.items():
        FAMILIES[family].build().save_pretrained(folder / "models" / name)
    torch.manual_seed(3)
    width = 32
    save_file({"emb_params": torch.randn(3, width)}, folder / "moody.safetensors")
    save_file({"clip_l": torch.randn(2, width), "clip_g": torch.randn(2, width)}, folder / "grim.safetensors")
    return folder


def lane_with(folder: Path, name: str, option: str = "") -> DiffusionLane:
    """Loads the model with the load option, a line of models.toml."""
    return load_diffusion(open_catalogue(folder, f"[models.{name}.load]\n{option}\n").get(name))


def picture_of(lane: DiffusionLane, name: str, prompt: str = "a red circle") -> Any:
    return render(lane, FAMILY_OF_MODEL[name], prompt=prompt, steps=2)


def picture_with(folder: Path, name: str, option: str = "", prompt: str = "a red circle") -> Any:
    lane = lane_with(folder, name, option)
    frames = picture_of(lane, name, prompt)
    lane.close()
    return frames


def stock_picture(
    folder: Path,
    name: str,
    prepare: Callable[[Any], object] = lambda pipeline: None,
    prompt: str = "a red circle",
    **from_pretrained: Any,
) -> Any:
    """Renders with diffusers alone, after `prepare` set the same option on the pipeline."""
    path = folder / "models" / name
    pipeline = diffusers.DiffusionPipeline.from_pretrained(path, use_safetensors=True, **from_pretrained)
    prepare(pipeline)
    return direct(pipeline, request(FAMILIES[FAMILY_OF_MODEL[name]], "a", prompt=prompt, steps=2))


def denoiser_of(pipeline: Any) -> Any:
    return getattr(pipeline, "unet", None) or pipeline.transformer


def parameter_bytes(module: torch.nn.Module) -> int:
    return sum(parameter.nbytes for parameter in module.parameters())


# Load options


def test_a_textual_inversion_is_called_by_its_files_name(saved: Path) -> None:
    option = "embeddings = ['moody.safetensors']"

    def load_inversion(pipeline: Any) -> None:
        pipeline.load_textual_inversion(str(saved), weight_name="moody.safetensors", token="moody")

    ours = picture_with(saved, "sd", option, "a moody circle")
    assert gap(ours, stock_picture(saved, "sd", load_inversion, "a moody circle")) <= MERGED
    assert gap(ours, picture_with(saved, "sd", prompt="a moody circle")) > MERGED
    weighted = picture_with(saved, "sd", option, "a (moody:1.3) circle")
    assert gap(weighted, ours) > MERGED


def test_a_textual_inversion_of_sdxl_goes_into_both_text_encoders(saved: Path) -> None:
    def load_inversion(pipeline: Any) -> None:
        tensors = load_file(saved / "grim.safetensors")
        for key, suffix in (("clip_l", ""), ("clip_g", "_2")):
            parts = {name: getattr(pipeline, f"{name}{suffix}") for name in ("tokenizer", "text_encoder")}
            pipeline.load_textual_inversion({"emb_params": tensors[key]}, token="grim", **parts)

    ours = picture_with(saved, "xl", "embeddings = ['grim.safetensors']", "a grim circle")
    assert gap(ours, stock_picture(saved, "xl", load_inversion, "a grim circle")) <= MERGED
    assert gap(ours, picture_with(saved, "xl", prompt="a grim circle")) > MERGED


@pytest.mark.parametrize("source", ["./other-vae", "./other-vae.safetensors"])
def test_another_vae_replaces_that_of_the_checkpoint(saved: Path, source: str) -> None:
    """The folder is in diffusers' layout, the file in the original one that people share."""
    other = FAMILIES["sd15"].build().vae
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(0.9)
    other.save_pretrained(saved / "other-vae")
    save_file(vae_of(other.state_dict()), saved / "other-vae.safetensors")

    ours = picture_with(saved, "sd", f"vae = '{source}'")

    assert gap(ours, stock_picture(saved, "sd", vae=other)) <= MERGED
    assert gap(ours, picture_with(saved, "sd")) > MERGED


@pytest.mark.parametrize("name", ["sd", "flux"])
def test_fp8_layerwise_halves_the_denoiser_and_makes_the_picture_that_diffusers_makes_with_it(
    saved: Path, name: str
) -> None:
    def cast(pipeline: Any) -> None:
        denoiser_of(pipeline).enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)

    plain = lane_with(saved, name)
    lane = lane_with(saved, name, "quantization = 'fp8-layerwise'")

    assert parameter_bytes(denoiser_of(lane.pipeline)) < parameter_bytes(denoiser_of(plain.pipeline)) / 2
    ours = picture_of(lane, name)
    assert gap(ours, stock_picture(saved, name, cast)) <= MERGED
    assert gap(ours, picture_of(plain, name)) > 0


def test_an_attention_backend_is_set_on_every_layer_of_that_model_and_on_no_other_model(saved: Path) -> None:
    usual = _AttentionBackendRegistry._active_backend
    other = lane_with(saved, "flux")

    lane = lane_with(saved, "flux", "attention = '_native_math'")

    assert attention_backends(lane.pipeline.transformer) == {AttentionBackendName._NATIVE_MATH}
    assert attention_backends(other.pipeline.transformer) == {None}
    assert _AttentionBackendRegistry._active_backend is usual
    assert usual is not AttentionBackendName._NATIVE_MATH
    assert gap(picture_of(lane, "flux"), stock_picture(saved, "flux")) <= MERGED


def attention_backends(transformer: torch.nn.Module) -> set[Any]:
    return {layer.processor._attention_backend for layer in transformer.modules() if hasattr(layer, "processor")}


@pytest.mark.parametrize("name", ["sd", "flux"])
def test_the_repeated_blocks_are_to_be_compiled_after_the_first_job_and_not_at_the_load(saved: Path, name: str) -> None:
    lane = lane_with(saved, name, "compile = true")

    denoiser = denoiser_of(lane.pipeline)
    repeated = [block for block in denoiser.modules() if type(block).__name__ in denoiser._repeated_blocks]
    assert repeated
    assert lane._compiled.modules == repeated
    assert not lane._compiled.preparing


@pytest.mark.filterwarnings("ignore")  # the libraries warn about many things
@pytest.mark.parametrize(("kind", "library"), [("quanto-int8", "optimum"), ("torchao-int8", "torchao")])
def test_a_quantized_denoiser_makes_the_picture_that_diffusers_makes_with_it(
    saved: Path, kind: str, library: str
) -> None:
    if find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    from diffusers.quantizers import PipelineQuantizationConfig

    from models.loading.quantization.library_configs import _quantization_config

    config = PipelineQuantizationConfig(quant_mapping={"transformer": _quantization_config(kind, diffusers)})
    ours = picture_with(saved, "flux", f"quantization = '{kind}'")

    assert gap(ours, stock_picture(saved, "flux", quantization_config=config, dtype=torch.float32)) <= MERGED
    difference = gap(ours, picture_with(saved, "flux"))
    assert 0 < difference < 0.2
    assert np.isfinite(ours).all()


# A denoiser in one file


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
    found = open_catalogue(tmp_path, toml)

    assert found.refused == ()
    assert found.get("one").type == "image"
    from_file, from_folder = (load_and_render(found.get(name), "flux") for name in ("one", "whole"))
    np.testing.assert_allclose(from_file, from_folder, atol=1e-4)


def write_gguf(weights: Path, file: Path, architecture: str) -> None:
    writer = gguf.GGUFWriter(file, architecture)
    for name, tensor in load_file(weights).items():
        writer.add_tensor(name, tensor.float().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
