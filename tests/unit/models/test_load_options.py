"""A load option that does not fit the checkpoint, the device or the installed libraries is refused by its name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from models import load_options
from models.errors import BadModel
from models.load_options import check_load_options
from models.spec import LoadOptions, ModelSpec
from tests.support.catalogues import open_catalogue
from tests.support.checkpoints import chat_folder, write_json
from tests.support.lanes.stock_families import FAMILIES


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Saves a Stable Diffusion, an SDXL, a Flux and a chat model, and textual inversions of several shapes."""
    folder = tmp_path_factory.mktemp("saved")
    for name, family in (("sd", "sd15"), ("xl", "sdxl"), ("flux", "flux")):
        FAMILIES[family].build().save_pretrained(folder / "models" / name)
    chat_folder(folder / "models/llama")
    torch.manual_seed(3)
    width = 32
    save_file({"emb_params": torch.randn(3, width)}, folder / "moody.safetensors")
    save_file({"clip_l": torch.randn(2, width), "clip_g": torch.randn(2, width)}, folder / "grim.safetensors")
    save_file({"emb_params": torch.randn(1, 7)}, folder / "narrow.safetensors")
    save_file({"a": torch.randn(1, width), "b": torch.randn(1, width)}, folder / "odd.safetensors")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "option", "words"),
    [
        ("llama", "compile = true", "load.compile of a chat model needs a CUDA device"),
        ("llama", "graphs = true", "load.graphs needs a CUDA device"),
        ("sd", "graphs = true", "load.graphs needs a CUDA device"),
        ("llama", "quantization = 'fp8-layerwise'", "fp8-layerwise is for image and video models"),
        ("sd", "attention = 'native'", "load.attention is for transformers; StableDiffusionPipeline has a U-Net"),
        ("flux", "attention = 'flash'", "load.attention: flash needs a CUDA device"),
        ("flux", "attention = 'magic'", "load.attention must be one of native, "),
        ("flux", "offload = true", "load.offload moves parts between main memory and a GPU"),
        ("sd", "quantization = 'bnb-4bit'", "load.quantization: bnb-4bit needs a CUDA device"),
        ("flux", "quantization = 'fp8'", "load.quantization: fp8 needs a GPU of compute capability 8.9"),
        ("flux", "quantization = 'cpu-int8'", "load.quantization: cpu-int8 is for language models"),
        ("flux", "quantization = 'torchao-int4'", "load.quantization: torchao-int4 needs a CUDA device"),
        ("sd", "base = 'flux'", "load.base is for a single file"),
        ("sd", "embeddings = ['narrow.safetensors']", "narrow.safetensors is 7 wide, this model's tokens are 32"),
        ("sd", "embeddings = ['odd.safetensors']", "odd.safetensors has the tensors a, b; expected is one"),
        ("sd", "embeddings = ['grim.safetensors']", "expected is one"),
        ("xl", "embeddings = ['moody.safetensors']", "expected is two, clip_l and clip_g"),
    ],
)
def test_an_option_that_does_not_apply_is_refused_by_its_name(saved: Path, model: str, option: str, words: str) -> None:
    found = open_catalogue(saved, f"[models.{model}.load]\n{option}\n")

    (refused,) = found.refused
    assert words in refused.reason


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"quantization": "quanto-int8"}, "needs optimum.quanto, which is not installed"),
        ({"attention": "sage"}, "load.attention: sage needs sageattention, which is not installed"),
        ({"attention": "flash_hub"}, "load.attention: flash_hub needs kernels, which is not installed"),
    ],
)
def test_an_option_whose_library_is_not_installed_is_refused_with_the_library(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], words: str
) -> None:
    monkeypatch.setattr(load_options, "is_installed", lambda library: False)
    model = ModelSpec(name="m", type="image", path=None, source="m", load=LoadOptions(**options))

    with pytest.raises(BadModel, match=words):
        check_load_options(model, on_cpu=False)


def test_an_option_for_a_part_that_the_checkpoint_lacks_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "models/pixels"
    FAMILIES["sd15"].build().save_pretrained(folder)
    index = {"_class_name": "DDPMPipeline", "unet": ["diffusers", "UNet2DModel"]}
    spec = ModelSpec(name="m", type="image", path=folder, source="m", pipeline="DDPMPipeline")
    write_json(folder / "model_index.json", index)

    options: dict[str, Any] = {"vae": "x", "compile": True, "embeddings": ("x.safetensors",)}
    for option, value in options.items():
        with pytest.raises(BadModel, match=f"load.{option}: "):
            check_load_options(replace(spec, load=LoadOptions(**{option: value})), on_cpu=True)
