"""Opening an adapter: what is opened from a folder or a single file has the weights that were saved."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from safetensors.torch import save_file

from models.adapters.adapter_files import adapter_stamp
from models.loading.adapters import open_adapter
from pipelines.diffusion.adapters.lent_modules import BadAdapter
from pipelines.diffusion_interface import Adapter
from tests.support.lanes.original_layout import unet_of
from tests.support.lanes.tiny_adapters import with_numbers

SD15: dict[str, Any] = {
    "block_out_channels": (32, 64), "layers_per_block": 2, "cross_attention_dim": 768, "norm_num_groups": 32,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"), "attention_head_dim": 8,
}  # fmt: skip
SDXL: dict[str, Any] = {
    "block_out_channels": (64, 128), "layers_per_block": 1, "cross_attention_dim": 2048, "attention_head_dim": (1, 2),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"), "transformer_layers_per_block": (1, 2),
    "use_linear_projection": True, "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}  # fmt: skip
UNION = {"num_control_type": 6, "num_trans_channel": 64, "num_proj_channel": 64, "num_trans_head": 8}


def opened(path: Path) -> Any:
    adapter = Adapter("net", "controlnet", str(path), adapter_stamp(path))
    return open_adapter(adapter, device="cpu", dtype=torch.float32)


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    first, second = one.state_dict(), other.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize(
    ("cls", "config"),
    [("ControlNetModel", SD15), ("ControlNetModel", SDXL), ("ControlNetUnionModel", SDXL | UNION)],
    ids=["sd15", "sdxl", "union"],
)
def test_a_single_file_tells_the_config_of_a_controlnet(cls: str, config: dict[str, Any], tmp_path: Path) -> None:
    torch.manual_seed(0)
    saved = with_numbers(getattr(diffusers, cls)(**config))
    save_file(saved.state_dict(), tmp_path / "net.safetensors")

    found = opened(tmp_path / "net.safetensors")

    assert type(found) is type(saved)
    assert same(found, saved)
    assert not found.training
    if cls == "ControlNetModel":
        assert differs(saved, found, config["cross_attention_dim"], is_xl=config is SDXL) == 0


def test_a_single_file_in_the_original_layout_is_the_same_controlnet(tmp_path: Path) -> None:
    torch.manual_seed(0)
    saved = with_numbers(diffusers.ControlNetModel(**SD15))
    save_file(in_original_layout(saved), tmp_path / "control_v11p_sd15_canny.safetensors")

    found = opened(tmp_path / "control_v11p_sd15_canny.safetensors")

    assert same(found, saved)
    assert differs(saved, found, 768, is_xl=False) == 0


def test_a_folder_is_opened_by_its_class(tmp_path: Path) -> None:
    torch.manual_seed(0)
    saved = with_numbers(diffusers.ControlNetModel(**SD15))
    saved.save_pretrained(tmp_path / "net")

    assert same(opened(tmp_path / "net"), saved)


def test_files_that_were_replaced_by_others_are_refused(tmp_path: Path) -> None:
    saved = diffusers.ControlNetModel(**SD15).state_dict()
    path = tmp_path / "net.safetensors"
    save_file({key: tensor for key, tensor in saved.items() if not key.startswith("mid_block.resnets.0.conv1")}, path)

    with pytest.raises(BadAdapter, match=r"The adapter net cannot be loaded: .*mid_block\.resnets\.0\.conv1"):
        opened(path)


def differs(one: Any, other: Any, width: int, *, is_xl: bool) -> float:
    """The largest difference between what two ControlNets make of the same input."""
    torch.manual_seed(1)
    extra = {"text_embeds": torch.randn(1, 1280), "time_ids": torch.randn(1, 6)} if is_xl else None
    given: dict[str, Any] = {
        "sample": torch.randn(1, 4, 8, 8), "timestep": 7, "encoder_hidden_states": torch.randn(1, 5, width),
        "controlnet_cond": torch.rand(1, 3, 64, 64), "added_cond_kwargs": extra, "return_dict": False,
    }  # fmt: skip
    with torch.no_grad():
        (first, middle), (second, others_middle) = one(**given), other(**given)
    pairs = zip((*first, middle), (*second, others_middle), strict=True)
    return max(float((a - b).abs().max()) for a, b in pairs)


def in_original_layout(net: Any) -> dict[str, torch.Tensor]:
    """The names of the ControlNet repository, the inverse of `convert_controlnet_checkpoint`."""
    state = dict(net.state_dict())
    found: dict[str, torch.Tensor] = {}
    own = {key: state.pop(key) for key in list(state) if key.startswith("controlnet_")}
    for key, tensor in own.items():
        name = re.sub(r"^controlnet_down_blocks\.(\d+)\.", r"zero_convs.\1.0.", key)
        name = name.replace("controlnet_mid_block.", "middle_block_out.0.")
        name = name.replace("controlnet_cond_embedding.conv_in.", "input_hint_block.0.")
        name = name.replace("controlnet_cond_embedding.conv_out.", "input_hint_block.14.")
        name = re.sub(
            r"^controlnet_cond_embedding\.blocks\.(\d+)\.",
            lambda match: f"input_hint_block.{2 * int(match[1]) + 2}.", name,
        )  # fmt: skip
        found[f"control_model.{name}"] = tensor
    return found | {f"control_model.{key}": tensor for key, tensor in unet_of(state, 2).items()}
