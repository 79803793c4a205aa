"""A checkpoint that needs a package which is not installed is refused with its name and the way to install it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from models import required_packages
from models.errors import BadModel
from models.installed_libraries import package_folder
from models.required_packages import QUANTIZERS, check_packages, named_in
from tests.support.catalogues import open_catalogue
from tests.support.checkpoints import chat_folder, stable_diffusion_folder, write_json


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """No package is installed besides torch and transformers, whatever this machine has."""
    monkeypatch.setattr(required_packages, "is_installed", lambda module: module in ("torch", "transformers"))


@pytest.mark.usefixtures("bare")
@pytest.mark.parametrize(
    ("scheduler", "config", "package"),
    [
        ("LMSDiscreteScheduler", {}, "scipy"),
        ("DPMSolverSDEScheduler", {}, "torchsde"),
        ("DPMSolverMultistepScheduler", {"use_beta_sigmas": True}, "scipy"),
    ],
)
def test_a_scheduler_that_needs_a_package_is_refused_by_its_name(
    tmp_path: Path, scheduler: str, config: dict[str, Any], package: str
) -> None:
    folder = stable_diffusion_folder(tmp_path / "models/sd", scheduler=["diffusers", scheduler])
    write_json(folder / "scheduler/scheduler_config.json", config)

    (refused,) = open_catalogue(tmp_path).refused

    assert f"{scheduler}) needs {package}, which is not installed: pip install {package}" in refused.reason


@pytest.mark.usefixtures("bare")
@pytest.mark.parametrize(
    ("quantization", "words"),
    [
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "pip install 'agentname[bitsandbytes]'"),
        ({"load_in_8bit": True}, "bitsandbytes"),
        ({"quant_method": "torchao"}, "pip install 'agentname[torchao]'"),
        ({"quant_method": "quanto"}, "optimum.quanto, which is not installed: pip install 'agentname[quanto]'"),
        ({"quant_method": "gguf"}, "pip install gguf"),
        ({"quant_method": "gptq"}, "gptq, which diffusers does not read"),
        ({}, "(none)"),
    ],
)
def test_a_quantized_denoiser_names_the_package_of_its_method(
    tmp_path: Path, quantization: dict[str, Any], words: str
) -> None:
    folder = stable_diffusion_folder(tmp_path / "models/sd")
    config = {"_class_name": "UNet2DConditionModel", "quantization_config": {"x": 1} | quantization}
    write_json(folder / "unet/config.json", config)

    (refused,) = open_catalogue(tmp_path).refused

    assert words in refused.reason
    assert refused.reason.startswith("unet is quantized")


@pytest.mark.usefixtures("bare")
@pytest.mark.parametrize(
    ("method", "package"),
    [
        ("gptq", "optimum and gptqmodel, which are not installed: pip install optimum gptqmodel"),
        ("awq", "gptqmodel"),
        ("compressed-tensors", "pip install compressed-tensors"),
        ("bitsandbytes", "bitsandbytes"),
    ],
)
def test_a_quantized_language_model_names_the_package_of_its_method(tmp_path: Path, method: str, package: str) -> None:
    chat_folder(tmp_path / "models/llama", quantization_config={"quant_method": method})

    (refused,) = open_catalogue(tmp_path).refused

    assert package in refused.reason


@pytest.mark.parametrize("method", ["fp8", "mxfp4"])
def test_methods_that_the_library_unpacks_itself_are_served(tmp_path: Path, method: str) -> None:
    chat_folder(tmp_path / "models/llama", quantization_config={"quant_method": method})

    assert open_catalogue(tmp_path).names() == ["llama"]


def test_a_method_that_needs_cuda_is_refused_on_a_cpu_and_served_on_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(required_packages, "is_installed", lambda module: True)
    folder = stable_diffusion_folder(tmp_path / "sd")
    quantization = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    write_json(folder / "unet/config.json", {"_class_name": "X", "quantization_config": quantization})

    check_packages(folder, on_cpu=False)
    with pytest.raises(BadModel, match=r"unet is quantized \(bitsandbytes\), which needs a CUDA device"):
        check_packages(folder, on_cpu=True)


@pytest.mark.usefixtures("bare")
def test_a_vocabulary_without_tokenizer_json_needs_its_converter(tmp_path: Path) -> None:
    folder = chat_folder(tmp_path / "llama")
    (folder / "tokenizer.json").rename(folder / "tokenizer.model")

    with pytest.raises(BadModel, match=r"sentencepiece and protobuf, which are not installed: pip install sentencep"):
        check_packages(folder, on_cpu=True)


@pytest.mark.usefixtures("bare")
def test_processors_that_could_read_video_need_torchvision(tmp_path: Path) -> None:
    processor = ["transformers", "Qwen2VLProcessor"]
    folder = stable_diffusion_folder(tmp_path / "sd", feature_extractor=processor)

    with pytest.raises(BadModel, match=r"Qwen2VLProcessor\) needs torchvision, .* pip install 'agentname\[vision\]'"):
        check_packages(folder, on_cpu=True)


@pytest.mark.usefixtures("bare")
def test_the_package_in_a_librarys_own_error_is_found() -> None:
    assert named_in("PixtralProcessor requires the Torchvision library but it was not found") == "torchvision"
    assert named_in("TimmWrapperModel requires the timm library but it was not found") == "timm"
    assert named_in("LMSDiscreteScheduler requires the scipy library. Install it with `pip install scipy`") == "scipy"
    assert named_in("cannot import name 'x' from 'y'") is None


def test_every_method_of_the_installed_libraries_is_known() -> None:
    """The tables name the methods of the libraries' own mappings, save those for hardware that is not served."""
    not_served = {"metal", "fouroversix", "gemma"}
    for library, known in QUANTIZERS.items():
        text = (package_folder(library) / "quantizers/auto.py").read_text()
        mapping = text.split("AUTO_QUANTIZER_MAPPING = {")[1].split("}")[0]
        methods = {re.sub("_[48]bit$", "", method) for method in re.findall(r'"([\w-]+)":', mapping)}
        assert methods - not_served == set(known), library
