"""ControlNets and T2I-Adapters with random weights for small checkpoints, saved as diffusers saves them."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import torch

from models.adapters.adapter_files import adapter_bytes, adapter_stamp
from models.loading.adapters import open_adapter
from pipelines.diffusion.adapters.lent_modules import OpenAdapter
from pipelines.diffusion_interface import Adapter, AdapterKind


def controlnet_for(pipeline: Any, seed: int = 0, cls: str | None = None, **wanted: Any) -> Any:
    """A ControlNet for the pipeline's denoiser, whose zero layers have numbers so that it has an effect."""
    torch.manual_seed(seed)
    unet = getattr(pipeline, "unet", None)
    if unet is not None:
        halvings = len(pipeline.vae.config.block_out_channels) - 1
        wanted.setdefault("conditioning_embedding_out_channels", (16, 32, 48, 64)[: halvings + 1])
        return with_numbers(getattr(diffusers, cls or "ControlNetModel").from_unet(unet, **wanted))
    config = pipeline.transformer.config
    name = type(pipeline.transformer).__name__.replace("Transformer2DModel", "ControlNetModel")
    if name == "ZImageControlNetModel":
        wanted = {"control_layers_places": [0], "control_refiner_layers_places": [0], "control_in_dim": 16,
                  "dim": config.dim, "n_refiner_layers": 1, "n_heads": config.n_heads,
                  "n_kv_heads": config.n_kv_heads}  # fmt: skip
        return with_numbers(diffusers.ZImageControlNetModel(**wanted))
    if name in ("FluxControlNetModel", "QwenImageControlNetModel"):
        wanted |= {key: config[key] for key in ("attention_head_dim", "num_attention_heads")}
    if name == "FluxControlNetModel":
        wanted |= {"num_single_layers": 1}
    if name == "SD3ControlNetModel":
        wanted |= {"num_extra_conditioning_channels": 0}
    own = dict(config)  # which `from_transformer` of SD 3 writes to
    made = getattr(diffusers, name).from_transformer(pipeline.transformer, num_layers=1, **wanted)
    pipeline.transformer.register_to_config(**own)
    return with_numbers(made)


def with_numbers(module: Any) -> Any:
    """Fills what a fresh adapter has as zeros, so that it changes the picture."""
    with torch.no_grad():
        for parameter in module.parameters():
            if not parameter.any():
                parameter.normal_(std=0.05)
    return module.eval()


def saved(module: Any, folder: Path, name: str, kind: AdapterKind = "controlnet") -> Adapter:
    module.save_pretrained(folder / name)
    path = folder / name
    return Adapter(name, kind, str(path), adapter_stamp(path), adapter_bytes(path, 4))


def opens_on_cpu(pipeline: Any) -> OpenAdapter:
    return partial(open_adapter, pipeline=pipeline, device="cpu", dtype=torch.float32)
