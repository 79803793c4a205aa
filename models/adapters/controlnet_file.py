"""Reads the config of a ControlNet that is a single file from the shapes of its tensors. Pure functions; no torch.

diffusers would look for the config on the hub. All numbers of a ControlNet for SD 1.5, SD 2 or SDXL show in its
tensors, except for the heads of its attention, which follow from the family. Files of other families do not tell
enough: these are refused with what to do.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from models.adapters.single_file_adapter import SingleFileAdapter
from models.errors import BadModel
from models.files.weight_header import Tensors

ORIGINAL_PREFIX = "control_model."  # of files in the layout of the ControlNet repository
ORIGINAL_INPUT = "input_hint_block.0.weight"
INPUT = "controlnet_cond_embedding.conv_in.weight"
UNION = "task_embedding"
# The width of prompts → how many heads: always 8 (SD 1.5), or as many as are 64 channels wide.
SD15, SD2, SDXL = 768, 1024, 2048
UNION_HEADS = 8  # of the small transformer that mixes the maps; its tensors do not show them
# Tensors of other ControlNets, by what they are.
OTHERS = {
    "lora_controlnet": "a Control LoRA, which changes weights of the U-Net",
    "control_all_x_embedder.2-1.weight": "a ControlNet of Z-Image",
    "controlnet_x_embedder.weight": "a ControlNet of Flux or Qwen-Image",
    "input_hint_block.0.bias": "a ControlNet of Flux (X-Labs)",
    "pos_embed_input.proj.weight": "a ControlNet of SD 3",
    "difference": "the difference of a ControlNet from its U-Net",
}
LLLITE = re.compile(r"^lllite_")
T2I_ADAPTER = re.compile(r"^(adapter\.)?body\.\d+\.(resnets\.|block1\.|in_conv\.)")


def read_controlnet_file(tensors: Tensors) -> SingleFileAdapter | None:
    """Returns None for a file that is no ControlNet or T2I-Adapter. Raises `BadModel` for one that cannot be served."""
    if any(LLLITE.match(name) for name in tensors):
        raise BadModel("is a ControlNet-LLLite, which changes layers of the U-Net: diffusers has no code for it")
    if INPUT in tensors and "conv_in.weight" in tensors and "down_blocks.0.resnets.0.conv1.weight" in tensors:
        return _in_diffusers_layout(tensors)
    prefix = ORIGINAL_PREFIX if ORIGINAL_PREFIX + ORIGINAL_INPUT in tensors else ""
    if prefix + ORIGINAL_INPUT in tensors and f"{prefix}zero_convs.0.0.weight" in tensors:
        return _in_original_layout({name.removeprefix(prefix): tensors[name] for name in tensors})
    for name, what in OTHERS.items():
        if name in tensors:
            raise BadModel(f"is {what}: as a single file it does not tell its config; add a folder with config.json")
    if any(T2I_ADAPTER.match(name) for name in tensors):
        raise BadModel("is a T2I-Adapter: as a single file it does not tell its config; add a folder with config.json")
    return None


def _in_diffusers_layout(tensors: Tensors) -> SingleFileAdapter:
    width = _text_width(tensors)
    channels, layers = [], 0
    down_types, transformer_layers = [], []
    for block in range(_count(tensors, r"down_blocks\.(\d+)\.")):
        start = f"down_blocks.{block}"
        channels.append(tensors[f"{start}.resnets.0.conv1.weight"].shape[0])
        layers = _count(tensors, rf"{start}\.resnets\.(\d+)\.")
        has_attention = any(name.startswith(f"{start}.attentions.") for name in tensors)
        down_types.append("CrossAttnDownBlock2D" if has_attention else "DownBlock2D")
        transformer_layers.append(_count(tensors, rf"{start}\.attentions\.0\.transformer_blocks\.(\d+)\."))
    if down_types[-1] == "DownBlock2D":  # the class takes the last number for the middle block as well
        transformer_layers[-1] = _count(tensors, r"mid_block\.attentions\.0\.transformer_blocks\.(\d+)\.")
    config = _config(tensors, width, channels, tensors["conv_in.weight"].shape[1]) | {
        "down_block_types": down_types,
        "layers_per_block": layers,
        "transformer_layers_per_block": transformer_layers if any(transformer_layers) else 1,
        "conditioning_channels": tensors[INPUT].shape[1],
        "conditioning_embedding_out_channels": _map_channels(tensors),
    }
    if UNION not in tensors:
        if not any(name.startswith("mid_block.attentions.") for name in tensors):
            config["mid_block_type"] = "UNetMidBlock2D"
        return SingleFileAdapter("controlnet", "ControlNetModel", config)
    n_types, n_channels = tensors[UNION].shape
    return SingleFileAdapter("controlnet", "ControlNetUnionModel", config | {
        "num_control_type": n_types,
        "num_trans_channel": n_channels,
        "num_trans_head": UNION_HEADS,
        "num_trans_layer": _count(tensors, r"transformer_layes\.(\d+)\."),  # as the class spells it
        "num_proj_channel": tensors["spatial_ch_projs.weight"].shape[0],
    })  # fmt: skip


def _in_original_layout(tensors: Tensors) -> SingleFileAdapter:
    width = _text_width(tensors)
    if width == SDXL:
        raise BadModel("is a ControlNet for SDXL in the original layout, which diffusers does not convert")
    n_inputs = _count(tensors, r"input_blocks\.(\d+)\.")
    # A block of the U-Net begins after each downsampling, and has the channels of its first convolution.
    ends = [i for i in range(n_inputs) if f"input_blocks.{i}.0.op.weight" in tensors]
    firsts = [1, *(i + 1 for i in ends)]
    channels = [tensors[f"input_blocks.{i}.0.in_layers.2.weight"].shape[0] for i in firsts]
    config = _config(tensors, width, channels, tensors["input_blocks.0.0.weight"].shape[1]) | {
        "down_block_types": [
            "CrossAttnDownBlock2D" if f"input_blocks.{i}.1.norm.weight" in tensors else "DownBlock2D" for i in firsts
        ],
        "layers_per_block": firsts[1] - 2 if len(firsts) > 1 else n_inputs - 1,
        "conditioning_channels": tensors[ORIGINAL_INPUT].shape[1],
        "conditioning_embedding_out_channels": [
            tensors[f"input_hint_block.{i}.weight"].shape[0] for i in (0, 4, 8, 12)
        ],
    }  # fmt: skip
    return SingleFileAdapter("controlnet", "ControlNetModel", config)


def _config(tensors: Tensors, width: int, channels: list[int], in_channels: int) -> dict[str, object]:
    config: dict[str, object] = {
        "in_channels": in_channels,
        "block_out_channels": channels,
        "cross_attention_dim": width,
        "attention_head_dim": 8 if width == SD15 else [n // 64 for n in channels],
        "use_linear_projection": width != SD15,
    }
    if (embedding := tensors.get("add_embedding.linear_1.weight")) is not None:
        time_channels = 256  # of each of the six numbers (sizes, crop) that SDXL reads besides the pooled prompt
        config |= {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": time_channels,
            "projection_class_embeddings_input_dim": embedding.shape[1],
        }
    return config


def _text_width(tensors: Tensors) -> int:
    width = next((tensors[name].shape[1] for name in tensors if name.endswith("attn2.to_k.weight")), 0)
    if not width and "add_embedding.linear_1.weight" in tensors:
        return SDXL  # a small ControlNet without attention
    if width not in (SD15, SD2, SDXL):
        raise BadModel(
            f"is a ControlNet whose prompts are {width} wide: of SD 1.5 ({SD15}), SD 2 ({SD2}) and SDXL ({SDXL}) a "
            "single file is read, of others a folder with config.json"
        )
    return width


def _map_channels(tensors: Tensors) -> list[int]:
    n_blocks = _count(tensors, r"controlnet_cond_embedding\.blocks\.(\d+)\.")
    widening = (f"controlnet_cond_embedding.blocks.{i}.weight" for i in range(1, n_blocks, 2))
    return [tensors[INPUT].shape[0], *(tensors[name].shape[0] for name in widening)]


def _count(names: Iterable[str], pattern: str) -> int:
    """Returns how many different numbers the group of `pattern` has."""
    compiled = re.compile(pattern)
    return len({match[1] for name in names if (match := compiled.match(name))})
