"""Writes random LoRA files of a tiny Stable Diffusion pipeline, and renders with them as diffusers does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import torch
from peft import LoraConfig, get_peft_model_state_dict

from pipelines.diffusion_interface import DiffusionRequest, Lora
from tests.support.lanes.lane_play import direct
from tests.support.lanes.stock_families import stable_diffusion


def make_lora(folder: Path, name: str, seed: int) -> Lora:
    """A random LoRA of the U-Net's attention, in the file format of diffusers."""
    pipeline = stable_diffusion()
    torch.manual_seed(seed)
    pipeline.unet.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=["to_q", "to_v"], init_lora_weights=False))
    state = get_peft_model_state_dict(pipeline.unet)
    diffusers.StableDiffusionPipeline.save_lora_weights(folder, state, weight_name=f"{name}.safetensors")
    return Lora(name, str(folder / f"{name}.safetensors"), 0.8)


def with_adapters(wanted: DiffusionRequest) -> Any:
    """The output of diffusers itself, without the lane."""
    pipeline = stable_diffusion()
    names = []
    for wanted_lora in wanted.loras:
        path = Path(wanted_lora.path)
        pipeline.load_lora_weights(str(path.parent), weight_name=path.name, adapter_name=wanted_lora.name)
        names.append(wanted_lora.name)
    if names:
        pipeline.set_adapters(names, [lora.weight for lora in wanted.loras])
    return direct(pipeline, wanted)
