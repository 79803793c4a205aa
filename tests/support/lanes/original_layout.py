"""Writes the single file that people share, from a saved pipeline of Stable Diffusion, SDXL or SD 3.

It renames tensors to those of the original code: the inverse of diffusers' converters.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

Weights = dict[str, torch.Tensor]
RESNET = {"norm1": "in_layers.0", "conv1": "in_layers.2", "norm2": "out_layers.0", "conv2": "out_layers.3",
          "time_emb_proj": "emb_layers.1", "conv_shortcut": "skip_connection"}  # fmt: skip
UNET = {"time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
        "conv_in": "input_blocks.0.0",
        "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2",
        "conv_norm_out": "out.0", "conv_out": "out.2"}  # fmt: skip
VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
MMDIT = (
    (r"transformer_blocks\.(\d+)\.attn\.(?:to_(q|k|v)|to_out\.0|norm_(q|k))\.", "x_block.attn"),
    (r"transformer_blocks\.(\d+)\.attn\.(?:add_(q|k|v)_proj|to_add_out|norm_added_(q|k))\.", "context_block.attn"),
    (r"transformer_blocks\.(\d+)\.attn2\.(?:to_(q|k|v)|to_out\.0|norm_(q|k))\.", "x_block.attn2"),
)
MMDIT_PLAIN = (
    (r"transformer_blocks\.(\d+)\.norm1\.linear", r"joint_blocks.\1.x_block.adaLN_modulation.1"),
    (r"transformer_blocks\.(\d+)\.norm1_context\.linear", r"joint_blocks.\1.context_block.adaLN_modulation.1"),
    (r"transformer_blocks\.(\d+)\.ff\.net\.0\.proj", r"joint_blocks.\1.x_block.mlp.fc1"),
    (r"transformer_blocks\.(\d+)\.ff\.net\.2", r"joint_blocks.\1.x_block.mlp.fc2"),
    (r"transformer_blocks\.(\d+)\.ff_context\.net\.0\.proj", r"joint_blocks.\1.context_block.mlp.fc1"),
    (r"transformer_blocks\.(\d+)\.ff_context\.net\.2", r"joint_blocks.\1.context_block.mlp.fc2"),
    (r"pos_embed\.pos_embed", "pos_embed"),
    (r"pos_embed\.proj", "x_embedder.proj"),
    (r"time_text_embed\.timestep_embedder\.linear_1", "t_embedder.mlp.0"),
    (r"time_text_embed\.timestep_embedder\.linear_2", "t_embedder.mlp.2"),
    (r"time_text_embed\.text_embedder\.linear_1", "y_embedder.mlp.0"),
    (r"time_text_embed\.text_embedder\.linear_2", "y_embedder.mlp.2"),
    (r"norm_out\.linear", "final_layer.adaLN_modulation.1"),
    (r"proj_out", "final_layer.linear"),
)
BLOCK = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}


def write_whole_file(folder: Path, file: Path) -> None:
    """Writes the single file of a folder that `save_pretrained` wrote."""
    vae = vae_of(load_file(folder / "vae/diffusion_pytorch_model.safetensors"))
    clip = with_text_model_prefix(load_file(folder / "text_encoder/model.safetensors"))
    if (folder / "transformer").is_dir():
        found = _under(
            "model.diffusion_model.", mmdit_of(load_file(folder / "transformer/diffusion_pytorch_model.safetensors"))
        )
        for name, place in (("l", "text_encoder"), ("g", "text_encoder_2")):
            found |= _under(
                f"text_encoders.clip_{name}.transformer.",
                with_text_model_prefix(load_file(folder / place / "model.safetensors")),
            )
    else:
        config = json.loads((folder / "unet/config.json").read_text())
        unet = load_file(folder / "unet/diffusion_pytorch_model.safetensors")
        found = _under("model.diffusion_model.", unet_of(unet, config["layers_per_block"]))
        if (folder / "text_encoder_2").is_dir():
            found |= _under("conditioner.embedders.0.transformer.", clip)
            second = open_clip_of(load_file(folder / "text_encoder_2/model.safetensors"))
            found |= _under("conditioner.embedders.1.model.", second)
        else:
            found |= _under("cond_stage_model.transformer.", clip)
    found |= _under("first_stage_model.", vae)
    save_file({name: tensor.clone().contiguous() for name, tensor in found.items()}, file)


def mmdit_of(weights: Mapping[str, torch.Tensor]) -> Weights:
    """Concatenates queries, keys and values, and swaps shift and scale of the last block and of the output."""
    last = max(int(m[1]) for name in weights if (m := re.match(r"transformer_blocks\.(\d+)", name)))
    swapped = (f"transformer_blocks.{last}.norm1_context.linear", "norm_out.linear")
    found: Weights = {}
    parts: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in weights.items():
        if name.startswith(swapped):
            tensor = torch.cat(tensor.chunk(2)[::-1])
        for pattern, where in MMDIT:
            if match := re.match(pattern, name):
                at, leaf = f"joint_blocks.{match[1]}.{where}", name.rpartition(".")[2]
                if match[2]:
                    parts.setdefault(f"{at}.qkv.{leaf}", {})[match[2]] = tensor
                else:
                    found[f"{at}.{f'ln_{match[3]}' if match[3] else 'proj'}.{leaf}"] = tensor
                break
        else:
            for pattern, to in MMDIT_PLAIN:
                name = re.sub(rf"^{pattern}(?=\.|$)", to, name)
            found[name] = tensor
    return found | {name: torch.cat([rows[side] for side in "qkv"]) for name, rows in parts.items()}


def with_text_model_prefix(weights: Weights) -> Weights:
    """Adds the outer name that newer versions of transformers leave out."""
    return {name if name.startswith("text_") else f"text_model.{name}": tensor for name, tensor in weights.items()}


def _under(prefix: str, weights: Mapping[str, torch.Tensor]) -> Weights:
    return {prefix + name: tensor for name, tensor in weights.items()}


def unet_of(weights: Mapping[str, torch.Tensor], layers: int) -> Weights:
    attending = {int(m[1]) for name in weights if (m := re.match(r"up_blocks\.(\d+)\.attentions", name))}

    def place(match: re.Match[str]) -> str:
        side, i, what, j, rest = match[1], int(match[2]), match[3], int(match[4]), match[5]
        down = side == "down"
        if what == "downsamplers":
            return f"input_blocks.{(layers + 1) * (i + 1)}.0.op{rest.removeprefix('.conv')}"
        if what == "upsamplers":
            return f"output_blocks.{(layers + 1) * i + layers}.{2 if i in attending else 1}{rest}"
        at = (layers + 1) * i + j + down
        rest = _resnet(rest) if what == "resnets" else rest
        return f"{'input' if down else 'output'}_blocks.{at}.{0 if what == 'resnets' else 1}{rest}"

    def named(name: str) -> str:
        if match := re.fullmatch(r"(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)(\..+)", name):
            return place(match)
        if match := re.fullmatch(r"mid_block\.(resnets|attentions)\.(\d)(\..+)", name):
            at = 1 if match[1] == "attentions" else 2 * int(match[2])
            return f"middle_block.{at}{_resnet(match[3]) if at != 1 else match[3]}"
        head, _, last = name.rpartition(".")
        return f"{UNET[head]}.{last}"

    return {named(name): tensor for name, tensor in weights.items()}


def _resnet(rest: str) -> str:
    _, part, last = rest.split(".")
    return f".{RESNET[part]}.{last}"


def vae_of(weights: Mapping[str, torch.Tensor]) -> Weights:
    stages = 1 + max(int(m[1]) for name in weights if (m := re.match(r"decoder\.up_blocks\.(\d+)", name)))
    steps: Iterable[tuple[str, str | Callable[[re.Match[str]], str]]] = (
        (r"encoder\.down_blocks\.(\d+)\.resnets\.(\d+)", r"encoder.down.\1.block.\2"),
        (r"encoder\.down_blocks\.(\d+)\.downsamplers\.0", r"encoder.down.\1.downsample"),
        (r"decoder\.up_blocks\.(\d+)\.resnets\.(\d+)", lambda m: f"decoder.up.{stages - 1 - int(m[1])}.block.{m[2]}"),
        (r"decoder\.up_blocks\.(\d+)\.upsamplers\.0", lambda m: f"decoder.up.{stages - 1 - int(m[1])}.upsample"),
        (r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}"),
        (
            r"mid_block\.attentions\.0\.(group_norm|to_q|to_k|to_v|to_out\.0)",
            lambda m: f"mid.attn_1.{VAE_ATTENTION[m[1]]}",
        ),
        (r"conv_norm_out", "norm_out"),
        (r"conv_shortcut", "nin_shortcut"),
    )
    found: Weights = {}
    for name, tensor in weights.items():
        for pattern, to in steps:
            name = re.sub(pattern, to, name)
        if re.search(r"attn_1\.(q|k|v|proj_out)\.weight", name) and tensor.ndim == 2:
            tensor = tensor[:, :, None, None]  # the original code has convolutions of one pixel
        found[name] = tensor
    return found


def open_clip_of(weights: Mapping[str, torch.Tensor]) -> Weights:
    plain = {name.removeprefix("text_model."): tensor for name, tensor in weights.items()}
    found: Weights = {
        "positional_embedding": plain["embeddings.position_embedding.weight"],
        "token_embedding.weight": plain["embeddings.token_embedding.weight"],
        "text_projection": plain["text_projection.weight"].T,
        **{f"ln_final.{last}": plain[f"final_layer_norm.{last}"] for last in ("weight", "bias")},
    }
    layers: dict[str, dict[str, Any]] = {}
    for name, tensor in plain.items():
        if match := re.fullmatch(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)", name):
            layers.setdefault(match[1], {})[f"{match[2]}.{match[3]}"] = tensor
    for number, layer in layers.items():
        block = f"transformer.resblocks.{number}"
        for last in ("weight", "bias"):
            rows = [layer[f"self_attn.{side}_proj.{last}"] for side in "qkv"]
            found[f"{block}.attn.in_proj_{last}"] = torch.cat(rows)
            found[f"{block}.attn.out_proj.{last}"] = layer[f"self_attn.out_proj.{last}"]
            for ours, theirs in BLOCK.items():
                found[f"{block}.{theirs}.{last}"] = layer[f"{ours}.{last}"]
    return found
