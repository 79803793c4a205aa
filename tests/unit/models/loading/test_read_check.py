"""A component is refused by name when one of its tensors is missing, renamed, reshaped or has no place, in any family.

Each file is damaged one tensor at a time. Every tensor of the small components is damaged in some run of the suite.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from models.errors import BadModel
from models.files.json_files import read_config
from models.files.model_index import components
from models.files.weight_files import weight_files
from models.loading.component_classes import component_class
from models.loading.components import open_component
from models.loading.read_check import Reads, check_is_filled, check_reads
from tests.support.lanes.loaded_models import save_chat
from tests.support.lanes.stock_families import FAMILIES

TENSORS_OF_A_COMPONENT = 6  # damaged in one run; a component has up to 700


def opened(folder: Path) -> list[tuple[str, Any, Path]]:
    """Returns (name, class, folder) of each component that has weights."""
    listed = components(read_config(folder / "model_index.json"))
    return [
        (name, component_class(name, *classes), folder / name)
        for name, classes in listed.items()
        if weight_files(folder / name)
    ]


def sampled(file: Path) -> Iterator[tuple[str, dict[str, torch.Tensor]]]:
    """Yields a name and a copy of all tensors, for a few tensors of the file."""
    tensors = load_file(file)
    for name in random.sample(sorted(tensors), min(TENSORS_OF_A_COMPONENT, len(tensors))):
        yield name, {key: tensor.clone() for key, tensor in tensors.items()}


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    mine, theirs = one.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_a_component_that_lacks_one_tensor_is_refused_by_its_name(tmp_path: Path, family: str) -> None:
    FAMILIES[family].build().save_pretrained(tmp_path)
    for component, cls, folder in opened(tmp_path):
        (file,) = weight_files(folder)
        sound, _ = open_component(component, cls, folder, torch.float32)
        whole = file.read_bytes()
        for name, tensors in sampled(file):
            del tensors[name]
            save_file(tensors, file, metadata={"format": "pt"})
            with pytest.raises(BadModel) as refused:
                open_component(component, cls, folder, torch.float32)
            assert component in refused.value.message
            assert name.split(".", 1)[-1] in refused.value.message + refused.value.detail
        file.write_bytes(whole)
        again, notes = open_component(component, cls, folder, torch.float32)
        assert same(sound, again), "the undamaged file is opened"
        assert notes == []


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_a_tensor_of_another_shape_or_name_or_layer_is_refused(tmp_path: Path, family: str) -> None:
    FAMILIES[family].build().save_pretrained(tmp_path)
    for component, cls, folder in opened(tmp_path):
        (file,) = weight_files(folder)
        for name, tensors in sampled(file):
            tensor = tensors.pop(name)
            damaged: list[dict[str, torch.Tensor]] = [
                {name: torch.cat([tensor, tensor])},  # another shape
                {f"other.{name}": tensor},  # under another prefix
            ]
            if "." in name:  # one more in an existing layer
                damaged.append({name: tensor, f"{name}_extra": tensor.clone()})
            for change in damaged:
                save_file(tensors | change, file, metadata={"format": "pt"})
                with pytest.raises(BadModel, match=component):
                    open_component(component, cls, folder, torch.float32)


@pytest.mark.slow
def test_a_text_encoder_under_another_prefix_is_refused(tmp_path: Path) -> None:
    FAMILIES["sd15"].build().save_pretrained(tmp_path)
    file = tmp_path / "text_encoder/model.safetensors"
    save_file(
        {f"encoder_of_text.{name}": tensor for name, tensor in load_file(file).items()}, file, metadata={"format": "pt"}
    )

    with pytest.raises(BadModel, match="text_encoder lacks"):
        open_component("text_encoder", transformers.CLIPTextModel, file.parent, torch.float32)


@pytest.mark.slow
def test_parts_of_a_larger_model_are_left_out_by_name(tmp_path: Path) -> None:
    FAMILIES["sd15"].build().save_pretrained(tmp_path)
    file = tmp_path / "text_encoder/model.safetensors"
    save_file(load_file(file) | {"lm_head.weight": torch.zeros(2, 2)}, file, metadata={"format": "pt"})

    _, notes = open_component("text_encoder", transformers.CLIPTextModel, file.parent, torch.float32)

    assert notes == ["text_encoder has 1 tensor (lm_head.weight) that its pipeline does not read."]


@pytest.mark.slow
def test_a_shard_that_lost_a_tensor_is_refused(tmp_path: Path) -> None:
    FAMILIES["flux"].build().save_pretrained(tmp_path, max_shard_size="20KB")
    shards = weight_files(tmp_path / "transformer")
    assert len(shards) > 1
    tensors = load_file(shards[0])
    lost = min(tensors)
    save_file({name: tensor for name, tensor in tensors.items() if name != lost}, shards[0], {"format": "pt"})
    ((component, cls, folder),) = [found for found in opened(tmp_path) if found[0] == "transformer"]

    with pytest.raises(BadModel, match="transformer"):
        open_component(component, cls, folder, torch.float32)


@pytest.mark.slow
def test_an_index_that_forgot_a_tensor_of_its_shard_is_no_harm(tmp_path: Path) -> None:
    FAMILIES["flux"].build().save_pretrained(tmp_path, max_shard_size="20KB")
    ((component, cls, folder),) = [found for found in opened(tmp_path) if found[0] == "transformer"]
    sound, _ = open_component(component, cls, folder, torch.float32)
    file = next(folder.glob("*.index.json"))
    index = json.loads(file.read_text())
    index["weight_map"].pop(min(index["weight_map"]))
    file.write_text(json.dumps(index))

    again, _ = open_component(component, cls, folder, torch.float32)

    assert same(sound, again)


def test_a_language_model_that_lacks_one_tensor_is_refused(tmp_path: Path) -> None:
    save_chat(tmp_path)
    file = tmp_path / "model.safetensors"
    for name, tensors in sampled(file):
        del tensors[name]
        save_file(tensors, file, metadata={"format": "pt"})
        with pytest.raises(BadModel) as refused:
            open_component("chat", transformers.LlamaForCausalLM, tmp_path, torch.float32)
        assert name in refused.value.message
        save_chat(tmp_path)


def test_tied_weights_may_be_absent(tmp_path: Path) -> None:
    config = transformers.LlamaConfig(
        vocab_size=16, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1,
        tie_word_embeddings=True, pad_token_id=0,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config)
    model.save_pretrained(tmp_path)
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")

    opened_model, notes = open_component("chat", transformers.LlamaForCausalLM, tmp_path, torch.float32)

    assert same(opened_model, model)
    assert notes == []


class TestCheckReads:
    module = torch.nn.Linear(2, 2)
    module.add_module("blocks", torch.nn.ModuleList([torch.nn.Linear(2, 2)]))
    module.add_module("norm", torch.nn.Linear(2, 2))

    def test_constants_that_are_computed_today_may_be_missing_or_left_over(self) -> None:
        reads = Reads(missing=["embeddings.position_ids"], unexpected=["blocks.0.rotary.inv_freq"])
        assert check_reads("unet", self.module, reads) == []

    @pytest.mark.parametrize("name", ["blocks.1.weight", "blocks.0.scale_weight", "norm.extra", "blocks.0.lora.weight"])
    def test_a_tensor_of_the_body_has_to_have_a_place(self, name: str) -> None:
        with pytest.raises(BadModel, match="has no place for") as refused:
            check_reads("unet", self.module, Reads(unexpected=[name]))
        assert name in refused.value.message

    @pytest.mark.parametrize("name", ["lm_head.weight", "vision.blocks.0.weight", "v_pred"])
    def test_a_tensor_beside_the_body_is_left_out_by_name(self, name: str) -> None:
        assert name in check_reads("unet", self.module, Reads(unexpected=[name]))[0]

    def test_a_long_list_of_names_is_shortened_and_whole_in_the_detail(self) -> None:
        names = [f"layer.{index}.weight" for index in range(10)]
        with pytest.raises(BadModel, match="and 6 more") as refused:
            check_reads("unet", self.module, Reads(missing=names))
        assert all(name in refused.value.detail for name in names)

    def test_another_shape_is_refused_with_both(self) -> None:
        with pytest.raises(BadModel, match=r"conv_in\.weight is 4x9x3x3 in the file, by its config it is 4x4x3x3"):
            check_reads("unet", self.module, Reads(mismatched=[("conv_in.weight", (4, 9, 3, 3), (4, 4, 3, 3))]))

    def test_a_tensor_without_memory_is_refused(self) -> None:
        with pytest.raises(BadModel, match=r"unet lacks 2 tensors \(bias, weight\)"):
            check_is_filled("unet", torch.nn.Linear(2, 2, device="meta"))
