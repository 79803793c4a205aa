"""Random LoRA files as the trainers name them, with the differences of weights that they stand for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

State = dict[str, torch.Tensor]
Deltas = dict[str, torch.Tensor]  # COMPONENT.LAYER → difference of its weight
ATTENTION = ("to_q", "to_v", "to_out.0", "q_proj", "fc1")
PEFT = ("lora_A.weight", "lora_B.weight")
KOHYA = ("lora_down.weight", "lora_up.weight")
OLD = {"to_q": "to_q_lora", "to_v": "to_v_lora", "to_out.0": "to_out_lora"}


@dataclass(frozen=True, slots=True)
class Format:
    family: str  # class name of the pipeline
    make: Callable[[Any, torch.Generator], tuple[State, Deltas]]
    stock_is_right: bool = True  # diffusers itself reads a sound file of this format as it was meant


def chosen(pipeline: Any, endings: tuple[str, ...] = ATTENTION) -> Iterator[tuple[str, str, torch.nn.Linear]]:
    """(component, layer, module)"""
    for component in pipeline._lora_loadable_modules:
        module = getattr(pipeline, component, None)
        for name, layer in module.named_modules() if isinstance(module, torch.nn.Module) else ():
            if name.endswith(endings) and isinstance(layer, torch.nn.Linear):
                yield component, name, layer


def halves(
    rows: int, columns: int, draw: torch.Generator, rank: int = 2
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(down, up, their product)"""
    down = torch.randn(rank, columns, generator=draw) * 0.3
    up = torch.randn(rows, rank, generator=draw) * 0.3
    return down, up, up @ down


def spelled(
    spelling: Callable[[str, str], str],
    parts: tuple[str, str] = PEFT,
    *,
    alphas: bool = False,
    ranks: bool = False,
    endings: tuple[str, ...] = ATTENTION,
    only: str = "",
) -> Callable[[Any, torch.Generator], tuple[State, Deltas]]:
    """spelling: (component, layer) → the layer's name in the file. ranks: they differ by layer, as alphas then do."""

    def make(pipeline: Any, draw: torch.Generator) -> tuple[State, Deltas]:
        state: State = {}
        deltas: Deltas = {}
        for index, (component, layer, module) in enumerate(chosen(pipeline, endings)):
            if only and component != only:
                continue
            rank = 2 + index % 3 if ranks else 2
            down, up, delta = halves(module.out_features, module.in_features, draw, rank)
            name = spelling(component, layer)
            state |= {f"{name}.{parts[0]}": down, f"{name}.{parts[1]}": up}
            alpha = (1.0, 4.0, 3.0)[index % 3] if alphas else rank
            if alphas:
                state[f"{name}.alpha"] = torch.tensor(alpha)
            deltas[f"{component}.{layer}"] = delta * alpha / rank
        return state, deltas

    return make


def underscored(denoiser: str, text: str = "lora_te") -> Callable[[str, str], str]:
    def spelling(component: str, layer: str) -> str:
        if not component.startswith("text_encoder"):
            return f"{denoiser}_{layer.replace('.', '_')}"
        inner = layer.removeprefix("text_model.").replace(".", "_")
        return f"{text}{'2' if component.endswith('2') else ''}_text_model_{inner}"

    return spelling


def dotted(component: str, layer: str) -> str:
    if component.startswith("text_encoder"):
        return f"{component}.text_model.{layer.removeprefix('text_model.')}"
    return f"{component}.{layer}"


def old_processors(pipeline: Any, draw: torch.Generator) -> tuple[State, Deltas]:
    state: State = {}
    deltas: Deltas = {}
    for component, layer, module in chosen(pipeline, tuple(OLD)):
        attention, _, projection = layer.rpartition(".to_")
        down, up, deltas[f"{component}.{layer}"] = halves(module.out_features, module.in_features, draw)
        name = f"{component}.{attention}.processor.{OLD[f'to_{projection}']}"
        state |= {f"{name}.down.weight": down, f"{name}.up.weight": up}
    return state, deltas


def fused(
    blocks: str, qkv: str, parts: tuple[str, str] = PEFT, *, alphas: bool = False
) -> Callable[[Any, torch.Generator], tuple[State, Deltas]]:
    """Query, key and value as one layer, in each of the double blocks. qkv: its name, {} the number of the block."""

    def make(pipeline: Any, draw: torch.Generator) -> tuple[State, Deltas]:
        state: State = {}
        deltas: Deltas = {}
        for number, block in enumerate(getattr(pipeline.transformer, blocks)):
            width = block.attn.to_q.in_features
            down, up, delta = halves(3 * width, width, draw)
            name = qkv.format(number)
            state |= {
                f"{name}{'' if name.endswith('lora1') else '.'}{part}": half
                for part, half in zip(parts, (down, up), strict=True)
            }
            if alphas:
                state[f"{name}.alpha"] = torch.tensor(1.0)
                delta = delta / 2
            for projection, rows in zip(("to_q", "to_k", "to_v"), delta.chunk(3), strict=True):
                deltas[f"transformer.{blocks}.{number}.attn.{projection}"] = rows
        return state, deltas

    return make


WAN = {"attn1.": "self_attn.", "attn2.": "cross_attn.", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "o",
       "ffn.net.0.proj": "ffn.0", "ffn.net.2": "ffn.2"}  # fmt: skip
WAN_LAYERS = ("to_q", "to_k", "to_v", "to_out.0", "ffn.net.0.proj", "ffn.net.2")


def wan(_: str, layer: str) -> str:
    for ours, theirs in WAN.items():
        layer = layer.replace(ours, theirs)
    return layer


SD3 = {
    "attn.to_out.0": "x_block_attn_proj",
    "attn.to_add_out": "context_block_attn_proj",
    "ff.net.2": "x_block_mlp_fc2",
    "norm1.linear": "x_block_adaLN_modulation_1",
}


def sd3(component: str, layer: str) -> str:
    if component.startswith("text_encoder"):
        return underscored("", "lora_te1" if component == "text_encoder" else "lora_te")(component, layer)
    _, number, inner = layer.split(".", 2)
    return f"lora_unet_joint_blocks_{number}_{SD3[inner]}"


FORMATS: dict[str, Format] = {
    "sd kohya": Format(
        "StableDiffusionPipeline",
        spelled(underscored("lora_unet"), KOHYA, alphas=True, ranks=True),
        stock_is_right=False,
    ),
    "sd peft": Format("StableDiffusionPipeline", spelled(dotted, ranks=True)),
    "sd diffusers": Format(
        "StableDiffusionPipeline", spelled(dotted, ("lora.down.weight", "lora.up.weight"), only="unet")
    ),
    "sd old processors": Format("StableDiffusionPipeline", old_processors),
    "sd text encoder": Format(
        "StableDiffusionPipeline",
        spelled(dotted, ("lora_linear_layer.down.weight", "lora_linear_layer.up.weight"), only="text_encoder"),
    ),
    "sdxl kohya": Format(
        "StableDiffusionXLPipeline",
        spelled(underscored("lora_unet", "lora_te1"), KOHYA, alphas=True, only="unet"),
        stock_is_right=False,
    ),
    "sd3 peft": Format("StableDiffusion3Pipeline", spelled(dotted, ranks=True)),
    "flux peft": Format("FluxPipeline", spelled(dotted, ranks=True)),
    "flux named adapter": Format(
        "FluxPipeline", spelled(dotted, ("lora_A.my-style.weight", "lora_B.my-style.weight")), stock_is_right=False
    ),
    "flux bare": Format("FluxPipeline", spelled(lambda _, layer: layer, only="transformer"), stock_is_right=False),
    "flux peft model": Format(
        "FluxPipeline",
        spelled(
            lambda _, layer: f"base_model.model.{layer}",
            ("lora_A.default.weight", "lora_B.default.weight"),
            only="transformer",
        ),
        stock_is_right=False,
    ),
    "flux kohya": Format(
        "FluxPipeline", fused("transformer_blocks", "lora_unet_double_blocks_{}_img_attn_qkv", KOHYA, alphas=True)
    ),
    "flux xlabs": Format(
        "FluxPipeline",
        fused("transformer_blocks", "double_blocks.{}.processor.qkv_lora1", (".down.weight", ".up.weight")),
    ),
    "flux onetrainer": Format(
        "FluxPipeline",
        spelled(underscored("lora_transformer", "lora_te1"), KOHYA, alphas=True, endings=("to_q", "to_v", "to_out.0")),
    ),
    "wan original": Format(
        "WanPipeline", spelled(lambda _, layer: f"diffusion_model.{wan(_, layer)}", endings=WAN_LAYERS)
    ),
    "wan original with alpha": Format(
        "WanPipeline",
        spelled(lambda _, layer: f"diffusion_model.{wan(_, layer)}", KOHYA, alphas=True, endings=WAN_LAYERS),
    ),
    "wan musubi": Format(
        "WanPipeline",
        spelled(
            lambda _, layer: f"lora_unet_{wan(_, layer).replace('.', '_')}", KOHYA, alphas=True, endings=WAN_LAYERS
        ),
    ),
    "wan comfy with diffusers' names": Format(
        "WanPipeline", spelled(lambda _, layer: f"diffusion_model.{layer}"), stock_is_right=False
    ),
    "hunyuan original": Format(
        "HunyuanVideoPipeline", fused("transformer_blocks", "transformer.double_blocks.{}.img_attn_qkv")
    ),
    "hunyuan kohya": Format(
        "HunyuanVideoPipeline",
        fused("transformer_blocks", "lora_unet_double_blocks_{}_img_attn_qkv", KOHYA, alphas=True),
        stock_is_right=False,
    ),
    "sd3 kohya": Format(
        "StableDiffusion3Pipeline",
        spelled(sd3, KOHYA, alphas=True, endings=(*SD3, "self_attn.q_proj")),
        stock_is_right=False,
    ),
    "sd3 kohya, fused": Format(
        "StableDiffusion3Pipeline",
        fused("transformer_blocks", "lora_unet_joint_blocks_{}_x_block_attn_qkv", KOHYA, alphas=True),
        stock_is_right=False,
    ),
    "flux comfy": Format(
        "FluxPipeline",
        fused("transformer_blocks", "diffusion_model.double_blocks.{}.img_attn.qkv", PEFT, alphas=True),
        stock_is_right=False,
    ),
    "ltx original": Format("LTXPipeline", spelled(lambda _, layer: f"diffusion_model.{layer}", ranks=True)),
    "qwen musubi": Format(
        "QwenImagePipeline",
        spelled(underscored("lora_unet"), KOHYA, alphas=True, endings=("to_q", "to_v", "to_out.0", "add_q_proj")),
    ),
    "qwen lightning": Format("QwenImagePipeline", spelled(lambda _, layer: layer, KOHYA, alphas=True)),
    "qwen default": Format(
        "QwenImagePipeline", spelled(lambda _, layer: layer, ("lora_A.default.weight", "lora_B.default.weight"))
    ),
    "z-image original": Format("ZImagePipeline", spelled(lambda _, layer: f"diffusion_model.{layer}")),
    "z-image kohya": Format("ZImagePipeline", spelled(underscored("lora_unet"), KOHYA, alphas=True)),
    "cogvideox comfy": Format(
        "CogVideoXPipeline", spelled(lambda _, layer: f"diffusion_model.{layer}"), stock_is_right=False
    ),
}
