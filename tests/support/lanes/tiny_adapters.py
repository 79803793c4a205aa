"""ControlNets and T2I-Adapters with random weights for small checkpoints, saved as diffusers saves them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import torch

from models.adapters.adapter_files import adapter_bytes, adapter_stamp
from pipelines.diffusion_interface import Adapter, AdapterKind


def controlnet_for(pipeline: Any, seed: int = 0, cls: str | None = None, **wanted: Any) -> Any:
    """A ControlNet made from the pipeline's own denoiser, whose zero layers have numbers so that it has an effect."""
    torch.manual_seed(seed)
    unet = getattr(pipeline, "unet", None)
    if unet is not None:
        # One more than the times that the VAE halves a picture.
        wanted.setdefault(
            "conditioning_embedding_out_channels", (16, 32, 48, 64)[: len(pipeline.vae.config.block_out_channels)]
        )
        made = getattr(diffusers, cls or "ControlNetModel").from_unet(unet, **wanted)
    else:
        name = cls or type(pipeline.transformer).__name__.replace("Transformer2DModel", "ControlNetModel")
        made = getattr(diffusers, name).from_transformer(pipeline.transformer, **wanted)
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
