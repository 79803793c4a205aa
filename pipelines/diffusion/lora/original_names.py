"""Renames layers from their authors' code where diffusers' conversions do not know the spelling. Pure functions.

kohya's trainers write HunyuanVideo's names with underscores, which diffusers knows with dots only, and Stable Diffusion
3's names (`joint_blocks`), which it does not know in a LoRA at all.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch

BLOCK = re.compile(r"lora_unet_(double_blocks|single_blocks)_(\d+)_(.+)\.(lora_[AB]\.weight)")
DOTS = {"_mlp_fc": "_mlp.fc", "_mod_linear": "_mod.linear", "modulation_linear": "modulation.linear"}

JOINT = re.compile(
    r"(?:lora_unet_|diffusion_model\.|transformer\.)?joint_blocks[._](\d+)[._](x|context)_block[._](.+)\.(lora_[AB]\.weight)"
)
OF_IMAGE = {
    "attn_qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "attn_proj": ("attn.to_out.0",),
    "attn2_qkv": ("attn2.to_q", "attn2.to_k", "attn2.to_v"),
    "attn2_proj": ("attn2.to_out.0",),
    "mlp_fc1": ("ff.net.0.proj",),
    "mlp_fc2": ("ff.net.2",),
    "adaLN_modulation_1": ("norm1.linear",),
}
OF_TEXT = {
    "attn_qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "attn_proj": ("attn.to_add_out",),
    "mlp_fc1": ("ff_context.net.0.proj",),
    "mlp_fc2": ("ff_context.net.2",),
    "adaLN_modulation_1": ("norm1_context.linear",),
}


def renamed(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """state: in peft's names of the halves. Names of other layers stay as they are."""
    found: dict[str, torch.Tensor] = {}
    for key, tensor in state.items():
        if block := BLOCK.fullmatch(key):
            layer = block[3]
            for underscored, dotted in DOTS.items():
                layer = layer.replace(underscored, dotted)
            found[f"transformer.{block[1]}.{block[2]}.{layer}.{block[4]}"] = tensor
        elif joint := JOINT.fullmatch(key):
            found |= _joint(joint[1], joint[2], joint[3].replace(".", "_"), joint[4], key, state)
        else:
            found[key] = tensor
    return found


def _joint(
    number: str, side: str, layer: str, half: str, key: str, state: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    tensor = state[key]
    layers = (OF_IMAGE if side == "x" else OF_TEXT).get(layer)
    if layers is None:
        return {key: tensor}
    is_up = half.startswith("lora_B")
    if is_up and layer.startswith("adaLN"):
        down = state[key.replace("lora_B", "lora_A")]
        if tensor.shape[0] == 2 * down.shape[1]:  # of the last block, where diffusers has scale before shift
            tensor = torch.cat(tensor.chunk(2)[::-1])
    rows = tensor.chunk(len(layers)) if is_up else (tensor,) * len(layers)
    return {
        f"transformer.transformer_blocks.{number}.{name}.{half}": part for name, part in zip(layers, rows, strict=True)
    }
