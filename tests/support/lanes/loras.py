"""Writes random LoRA files of a tiny Stable Diffusion pipeline."""

from __future__ import annotations

from pathlib import Path

import diffusers
import torch
from peft import LoraConfig, get_peft_model_state_dict

from pipelines.interface import Lora
from tests.support.lanes.stock_families import stable_diffusion


def make_lora(folder: Path, name: str, seed: int) -> Lora:
    """A random LoRA of the U-Net's attention, in the file format of diffusers."""
    pipeline = stable_diffusion()
    torch.manual_seed(seed)
    pipeline.unet.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=["to_q", "to_v"], init_lora_weights=False))
    state = get_peft_model_state_dict(pipeline.unet)
    diffusers.StableDiffusionPipeline.save_lora_weights(folder, state, weight_name=f"{name}.safetensors")
    return Lora(name, str(folder / f"{name}.safetensors"), 0.8)
