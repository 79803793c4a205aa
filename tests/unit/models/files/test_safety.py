"""A checkpoint that carries pickles or code is refused, and none of its code runs."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path

import pytest

from models.errors import BadModel
from models.files.safety import check_folder
from models.files.weight_files import weight_files
from tests.support.checkpoints import chat_folder, stable_diffusion_folder, write_json


class Canary:
    """Creates the file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return (open, (str(self.path), "w"))


def pickles(canary: Path) -> dict[str, bytes]:
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Canary(canary)))
    by_protocol = {f"protocol {n}": pickle.dumps(Canary(canary), protocol=n) for n in range(6)}
    return by_protocol | {"torch.save": zipped.getvalue()}


# Pickles


@pytest.mark.parametrize("name", ["protocol 0", "protocol 2", "protocol 5", "torch.save"])
def test_a_pickle_called_safetensors_is_refused_and_never_run(tmp_path: Path, name: str) -> None:
    canary = tmp_path / "canary"
    folder = chat_folder(tmp_path / "model")
    (folder / "model.safetensors").write_bytes(pickles(canary)[name])

    with pytest.raises(BadModel, match="not a safetensors file"):
        check_folder(folder)

    assert not canary.exists()


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.ckpt", "model.pth", "model.pkl"])
def test_a_folder_with_its_weights_only_as_pickle_is_refused(tmp_path: Path, name: str) -> None:
    canary = tmp_path / "canary"
    folder = chat_folder(tmp_path / "model")
    (folder / "model.safetensors").rename(folder / name)
    (folder / name).write_bytes(pickles(canary)["torch.save"])

    with pytest.raises(BadModel, match=r"only as pickle .*safetensors"):
        check_folder(folder)

    assert not canary.exists()


def test_a_component_with_only_pickled_weights_is_refused_even_if_the_others_are_safe(tmp_path: Path) -> None:
    folder = stable_diffusion_folder(tmp_path / "model")
    (folder / "unet/diffusion_pytorch_model.safetensors").rename(folder / "unet/diffusion_pytorch_model.bin")

    with pytest.raises(BadModel, match="only as pickle"):
        check_folder(folder)


def test_a_pickle_beside_safetensors_does_no_harm(tmp_path: Path) -> None:
    folder = chat_folder(tmp_path / "model")
    (folder / "pytorch_model.bin").write_bytes(b"never opened")

    check_folder(folder)

    assert weight_files(folder) == [folder / "model.safetensors"]


# Configs


def hostile_index(**index: object) -> dict[str, object]:
    return {"_class_name": "StableDiffusionPipeline", **index}


@pytest.mark.parametrize(
    "index",
    [
        hostile_index(unet=["os", "system"]),
        hostile_index(unet=["subprocess", "Popen"]),
        hostile_index(unet=["diffusers_evil", "UNet"]),
        hostile_index(unet=["diffusers.pipelines", "X"]),
        hostile_index(unet=["diffusers", "x.y"]),
        hostile_index(**{"../unet": ["diffusers", "UNet2DConditionModel"]}),
        hostile_index(unet=["diffusers", 7]),
        hostile_index(custom_pipeline="somebody/pipeline"),
        hostile_index(trust_remote_code=True),
        {"_class_name": ["pipeline", "EvilPipeline"]},
        {"_class_name": None},
        [1, 2],
    ],
)
def test_a_model_index_that_asks_to_run_code_is_refused(tmp_path: Path, index: object) -> None:
    folder = stable_diffusion_folder(tmp_path / "model")
    write_json(folder / "model_index.json", index)

    with pytest.raises(BadModel):
        check_folder(folder)


def test_the_library_names_of_published_checkpoints_are_accepted(tmp_path: Path) -> None:
    folder = stable_diffusion_folder(
        tmp_path / "model",
        safety_checker=["stable_diffusion", "StableDiffusionSafetyChecker"],
        text_encoder=["transformers", "CLIPTextModel"],
        image_encoder=[None, None],
        requires_safety_checker=True,
    )
    for part in ("safety_checker", "text_encoder"):
        chat_folder(folder / part)

    check_folder(folder)


def test_code_beside_a_component_is_refused(tmp_path: Path) -> None:
    folder = stable_diffusion_folder(tmp_path / "model")
    (folder / "unet/diffusers.py").write_text("raise SystemExit")

    with pytest.raises(BadModel, match="code of its own"):
        check_folder(folder)


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "brand_new", "auto_map": {"AutoModelForCausalLM": "modeling.Evil"}},
        {"trust_remote_code": True},
        {"text_config": {"_attn_implementation_internal": "somebody/kernels"}},
        {"_attn_implementation": {"": "somebody/kernels"}},
    ],
)
def test_a_config_that_asks_to_run_code_is_refused(tmp_path: Path, config: dict[str, object]) -> None:
    folder = chat_folder(tmp_path / "model", **config)

    with pytest.raises(BadModel):
        check_folder(folder)


def test_an_auto_map_is_accepted_where_transformers_has_the_model_itself(tmp_path: Path) -> None:
    folder = chat_folder(tmp_path / "model", auto_map={"AutoModelForCausalLM": "modeling_llama.LlamaForCausalLM"})

    check_folder(folder)


def test_a_config_nested_without_end_is_refused(tmp_path: Path) -> None:
    folder = chat_folder(tmp_path / "model")
    (folder / "config.json").write_text('{"a":' * 50_000)

    with pytest.raises(BadModel, match="not valid JSON"):
        check_folder(folder)


@pytest.mark.parametrize("config", [{"num_hidden_layers": 10**12}, {"layers_per_block": [2, 10**9]}, {"depth": 1e300}])
def test_a_config_that_asks_for_a_trillion_layers_is_refused(tmp_path: Path, config: dict[str, object]) -> None:
    folder = chat_folder(tmp_path / "m", **config)
    with pytest.raises(BadModel, match="is more than 4096"):
        check_folder(folder)


def test_a_scheduler_of_a_trillion_steps_is_refused(tmp_path: Path) -> None:
    folder = stable_diffusion_folder(tmp_path / "m")
    write_json(folder / "scheduler/scheduler_config.json", {"num_train_timesteps": 10**12})
    with pytest.raises(BadModel, match="num_train_timesteps is more than 1000000"):
        check_folder(folder)
