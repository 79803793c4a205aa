"""ControlNets and T2I-Adapters as entries of the catalogue: read from configs and headers, matched with models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from models.adapters.adapter_files import adapter_files
from models.adapters.control_types import canonical_type, types_in_name
from models.adapters.fit import misfit, takes_several
from models.catalogue import Catalogue
from models.checkpoint.read_checkpoint import read_checkpoint
from models.errors import BadModel, Incomplete
from models.spec import ModelSpec
from pipelines.diffusion_interface import PipelineTask
from tests.support.checkpoints import safetensors_bytes, write_json

SD15 = {"cross_attention_dim": 768, "block_out_channels": [320, 640, 1280, 1280], "layers_per_block": 2}
ONE = {"conv_in.weight": ("F32", [2, 3], 24)}


def adapter_folder(folder: Path, cls: str = "ControlNetModel", **config: Any) -> Path:
    write_json(folder / "config.json", {"_class_name": cls} | config)
    (folder / "diffusion_pytorch_model.safetensors").write_bytes(safetensors_bytes(ONE))
    return folder


def read(path: Path, name: str = "net") -> ModelSpec:
    return read_checkpoint(path, name=name, source=str(path), float_bytes=2)


def base(folder: Path, *tasks: PipelineTask, **config: Any) -> ModelSpec:
    write_json(folder / "unet" / "config.json", SD15 | config)
    return ModelSpec(name="base", type="image", path=folder, source="", tasks=tasks)


TAKES = PipelineTask(
    "StableDiffusionControlNetPipeline", {"control": "image"}, lent={"controlnet": ("ControlNetModel",)}
)


def test_a_folder_of_a_controlnet_is_an_adapter(tmp_path: Path) -> None:
    spec = read(adapter_folder(tmp_path / "control_v11p_sd15_canny", **SD15))

    assert (spec.type, spec.adapter, spec.adapter_class) == ("adapter", "controlnet", "ControlNetModel")
    assert spec.control_types == ("canny",)
    assert spec.weight_bytes == 12
    assert spec.fingerprint


def test_the_modes_of_a_controlnet_of_several_kinds_are_its_types(tmp_path: Path) -> None:
    union = read(adapter_folder(tmp_path / "union-sdxl", "ControlNetUnionModel", num_control_type=6))
    flux = read(adapter_folder(tmp_path / "flux-union", "FluxControlNetModel", num_mode=10))
    plain = read(adapter_folder(tmp_path / "flux-depth", "FluxControlNetModel", num_mode=None))

    assert union.control_modes["canny"] == 3
    assert "tile" not in union.control_types, "it has six kinds, and this one is the seventh"
    assert flux.control_modes["pose"] == 4
    assert (dict(plain.control_modes), plain.control_types) == ({}, ("depth",))


@pytest.mark.parametrize(
    ("cls", "reason"),
    [("ControlNetXSAdapter", "merged into"), ("MultiControlNetModel", "by itself")],
)
def test_classes_that_cannot_be_lent_are_refused_with_the_reason(cls: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(BadModel, match=reason):
        read(adapter_folder(tmp_path / "net", cls))


def test_an_adapter_without_weights_is_incomplete(tmp_path: Path) -> None:
    folder = adapter_folder(tmp_path / "net")
    (folder / "diffusion_pytorch_model.safetensors").unlink()

    with pytest.raises(Incomplete) as raised:
        read(folder)
    assert raised.value.missing == ("the weights",)


@pytest.mark.parametrize(
    ("tensor", "what"),
    [
        ("lora_controlnet", "a Control LoRA"),
        ("lllite_unet_input_blocks_4_1.down.0.weight", "a ControlNet-LLLite"),
        ("control_all_x_embedder.2-1.weight", "a ControlNet of Z-Image"),
        ("adapter.body.0.resnets.0.block1.weight", "a T2I-Adapter"),
    ],
)
def test_single_files_that_do_not_tell_their_config_are_refused_by_what_they_are(
    tensor: str, what: str, tmp_path: Path
) -> None:
    file = tmp_path / "net.safetensors"
    file.write_bytes(safetensors_bytes({tensor: ("F32", [2, 3], 24)}))

    with pytest.raises(BadModel, match=what):
        adapter_files(file)


def test_the_catalogue_lists_adapters_and_has_none_as_default(tmp_path: Path) -> None:
    adapter_folder(tmp_path / "models" / "sd-canny", **SD15)
    adapter_folder(tmp_path / "models" / "odd", "ControlNetXSAdapter")
    (tmp_path / "models.toml").write_text('[models.depthy]\nsource = "models/sd-canny"\ncontrol_types = ["depth"]\n')
    (tmp_path / "none").mkdir()

    catalogue = Catalogue.open(data_dir=tmp_path, cache_dir=tmp_path / "cache", builtin=tmp_path / "none")

    assert {spec.name: spec.type for spec in catalogue.specs()} == {"sd-canny": "adapter", "depthy": "adapter"}
    assert catalogue.get("depthy").control_types == ("depth",)
    assert catalogue.default_for("adapter") is None
    assert [(each.name, each.type) for each in catalogue.refused] == [("odd", "adapter")]


@pytest.mark.parametrize("key", ["default", "pinned"])
def test_an_adapter_is_neither_default_nor_pinned(key: str, tmp_path: Path) -> None:
    adapter_folder(tmp_path / "net")
    (tmp_path / "models.toml").write_text(f'[models.net]\nsource = "net"\n{key} = true\n')
    (tmp_path / "none").mkdir()

    catalogue = Catalogue.open(data_dir=tmp_path, cache_dir=tmp_path / "cache", builtin=tmp_path / "none")

    assert [each.reason for each in catalogue.refused] == [f"{key} does not apply to adapters: requests borrow them"]


def test_an_adapter_fits_models_whose_pipelines_take_its_class_with_equal_widths(tmp_path: Path) -> None:
    net = read(adapter_folder(tmp_path / "canny", **SD15))

    assert misfit(net, base(tmp_path / "same", TAKES)) is None
    assert misfit(net, base(tmp_path / "sd2", TAKES, cross_attention_dim=1024)) == (
        "was made for models with another cross_attention_dim than base"
    )
    assert misfit(net, base(tmp_path / "other")) == "is a ControlNetModel, which no pipeline of base takes"


def test_a_t2i_adapter_of_sdxl_does_not_fit_stable_diffusion_1(tmp_path: Path) -> None:
    task = PipelineTask("StableDiffusionAdapterPipeline", {"control": "image"}, lent={"adapter": ("T2IAdapter",)})
    channels = [320, 640, 1280, 1280]
    plain = read(adapter_folder(tmp_path / "one", "T2IAdapter", channels=channels))
    for_xl = read(adapter_folder(tmp_path / "two", "T2IAdapter", channels=channels, adapter_type="full_adapter_xl"))

    assert misfit(plain, base(tmp_path / "sd15", task)) is None
    assert misfit(for_xl, base(tmp_path / "sd15", task)) is not None
    xl = base(tmp_path / "xl", task, addition_embed_type="text_time", block_out_channels=channels[:3])
    assert misfit(for_xl, xl) is None


def test_which_classes_take_several_maps() -> None:
    assert takes_several(TAKES)
    one = PipelineTask("SanaControlNetPipeline", lent={"controlnet": ("SanaControlNetModel",)})
    assert not takes_several(one)


def test_types_are_told_by_names() -> None:
    assert types_in_name("control_v11p_sd15_softedge") == ("softedge",)
    assert types_in_name("thibaud/controlnet-openpose-sdxl-1.0") == ("pose",)
    assert types_in_name("t2i-adapter-depth-zoe-sdxl-1.0") == ("depth",)
    assert types_in_name("flux-union-pro") == ()
    assert canonical_type("OpenPose") == "pose"
    assert canonical_type("low quality") == "low_quality"
    assert canonical_type("spaghetti") is None
