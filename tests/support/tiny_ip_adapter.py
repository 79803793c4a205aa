"""Tiny IP-Adapters with random weights, in the layouts of the files that people have."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

TOKENS = 4  # into which a plain IP-Adapter turns a picture


def ip_adapter_tensors(pipeline: Any, image_dim: int, *, plus: bool = False, seed: int = 0) -> dict[str, torch.Tensor]:
    """Of the U-Net or the Flux transformer of a pipeline. image_dim: of what its encoder of pictures makes of one.

    plus: the layout of IP-Adapter Plus, which reads the encoder's hidden states.
    """
    denoiser = getattr(pipeline, "unet", None) or pipeline.transformer
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator) * 0.3

    is_flux = not hasattr(pipeline, "unet")
    text_dim = denoiser.config.joint_attention_dim if is_flux else denoiser.config.cross_attention_dim
    parts = _plus(random, image_dim, text_dim) if plus else _plain(random, image_dim, text_dim)
    tensors = {f"image_proj.{name}": tensor for name, tensor in parts.items()}
    for key, width in _layers(denoiser, is_flux):
        for name in ("to_k_ip", "to_v_ip"):
            tensors[f"ip_adapter.{key}.{name}.weight"] = random(width, text_dim)
            if is_flux:
                tensors[f"ip_adapter.{key}.{name}.bias"] = random(width)
    return tensors


def sd3_ip_adapter_tensors(pipeline: Any, image_dim: int, seed: int = 0) -> dict[str, torch.Tensor]:
    """Of a Stable Diffusion 3."""
    from diffusers.models.attention_processor import SD3IPAdapterJointAttnProcessor2_0
    from diffusers.models.embeddings import IPAdapterTimeImageProjection

    config = pipeline.transformer.config
    width, time_width = config.attention_head_dim * config.num_attention_heads, 64
    sizes = {"hidden_size": width, "ip_hidden_states_dim": width, "head_dim": config.attention_head_dim}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        projection = IPAdapterTimeImageProjection(
            embed_dim=image_dim, output_dim=width, hidden_dim=time_width, heads=1, num_queries=2, timestep_in_dim=32
        )
        tensors = {f"image_proj.{name}": tensor for name, tensor in projection.state_dict().items()}
        for i in range(len(pipeline.transformer.attn_processors)):
            processor = SD3IPAdapterJointAttnProcessor2_0(**sizes, timesteps_emb_dim=time_width)
            tensors |= {f"ip_adapter.{i}.{name}": tensor for name, tensor in processor.state_dict().items()}
    return {name: tensor.clone().contiguous() for name, tensor in tensors.items()}


def save_ip_adapter(folder: Path, tensors: dict[str, torch.Tensor], encoder: Any) -> Path:
    """Save a folder as its authors publish it: the file, and beside it the encoder of pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "ip-adapter.safetensors")
    encoder.save_pretrained(folder / "image_encoder")
    return folder


def _layers(denoiser: Any, is_flux: bool) -> Iterable[tuple[int, int]]:
    """(the number of a layer in the file, its width)"""
    if is_flux:
        return [(i, denoiser.inner_dim) for i in range(denoiser.config.num_layers)]
    modules = dict(denoiser.named_modules())
    names = [name.removesuffix(".processor") for name in denoiser.attn_processors]
    widths = [modules[name].to_q.out_features for name in names if name.endswith("attn2") and "motion" not in name]
    return [(2 * i + 1, width) for i, width in enumerate(widths)]


def _plain(random: Any, image_dim: int, text_dim: int) -> dict[str, torch.Tensor]:
    return {
        "proj.weight": random(TOKENS * text_dim, image_dim),
        "proj.bias": random(TOKENS * text_dim),
        "norm.weight": 1 + random(text_dim),
        "norm.bias": random(text_dim),
    }


def _plus(random: Any, image_dim: int, text_dim: int) -> dict[str, torch.Tensor]:
    width, queries = 64, 3  # one head of 64, the only width that diffusers reads
    found = {
        "latents": random(1, queries, width),
        "proj_in.weight": random(width, image_dim),
        "proj_in.bias": random(width),
        "proj_out.weight": random(text_dim, width),
        "proj_out.bias": random(text_dim),
        "norm_out.weight": 1 + random(text_dim),
        "norm_out.bias": random(text_dim),
    }
    for layer in range(4):  # their number is fixed in diffusers
        start = f"layers.{layer}"
        found |= {
            f"{start}.0.norm1.weight": 1 + random(width), f"{start}.0.norm1.bias": random(width),
            f"{start}.0.norm2.weight": 1 + random(width), f"{start}.0.norm2.bias": random(width),
            f"{start}.0.to_q.weight": random(width, width),
            f"{start}.0.to_kv.weight": random(2 * width, width),
            f"{start}.0.to_out.weight": random(width, width),
            f"{start}.1.0.weight": 1 + random(width), f"{start}.1.0.bias": random(width),
            f"{start}.1.1.weight": random(4 * width, width),
            f"{start}.1.3.weight": random(width, 4 * width),
        }  # fmt: skip
    return found
