"""Decides from file headers whether a LoRA can belong to a checkpoint, before a job is accepted. Any thread; no torch.

It judges only what is certain: a LoRA for a component that the checkpoint does not have, and layers in diffusers'
names of which none exists with as many inputs. Other names (`double_blocks.0.img_attn_qkv`) are left to the library,
which can rename them (pipelines/diffusion/lora/weights.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path

from models.checkpoint.denoiser_input import DENOISERS
from models.files.safetensors_header import read_safetensors_header
from models.files.weight_files import weight_files
from models.fingerprint import fingerprint

DOWN = re.compile(r"(?:\.lora_A|\.lora_down|\.lora\.down)\.weight$")  # the factor that reads the layer's input
U_NET = re.compile(r"(?:lora_unet_|unet\.)(?=(?:down_blocks|mid_block|up_blocks)[._])")  # no other code has these names
PREFIX = re.compile(r"(unet|transformer)\.")
NUMBER = re.compile(r"\d+")
PACKED = frozenset({"U8", "I8"})  # quantized: the shape does not tell the inputs

Layers = Mapping[str, int | None]  # kohya's name → inputs, None when unknown


def may_fit(lora: Path, checkpoint: Path) -> bool:
    """Returns False when no layer that the LoRA names exists in the denoiser with as many inputs."""
    if not checkpoint.is_dir():
        return True
    layers = _denoiser_layers(checkpoint, fingerprint(checkpoint))
    wanted = _lora_layers(lora, fingerprint(lora))
    if not wanted or not layers:
        return True
    patterns = {NUMBER.sub("#", name) for name in layers}
    for (component, name), inputs in wanted.items():
        if (checkpoint / component).is_dir() and component == "transformer" and NUMBER.sub("#", name) not in patterns:
            return True  # maybe in the names of other code
        if name in layers and layers[name] in (inputs, None):
            return True
    return False


@lru_cache(maxsize=256)
def _lora_layers(lora: Path, _fingerprint: str) -> Mapping[tuple[str, str], int]:
    """Returns (component, layer) → number of inputs, empty when a name is not certainly of diffusers."""
    found: dict[tuple[str, str], int] = {}
    for key, tensor in read_safetensors_header(lora).items():
        if not DOWN.search(key) or key.startswith(("text_encoder", "lora_te")):
            continue
        prefix = U_NET.match(key) or PREFIX.match(key)
        if prefix is None or ".processor." in key or len(tensor.shape) < 2:
            return {}
        component = "transformer" if prefix[0] == "transformer." else "unet"
        found[component, _kohya_name(DOWN.sub("", key[prefix.end() :]))] = tensor.shape[1]
    return found


@lru_cache(maxsize=256)
def _denoiser_layers(checkpoint: Path, _fingerprint: str) -> Layers:
    files: Iterable[Path] = (
        file for part in DENOISERS if (checkpoint / part).is_dir() for file in weight_files(checkpoint / part)
    )
    return {
        _kohya_name(name.removesuffix(".weight")): None if tensor.dtype in PACKED else tensor.shape[1]
        for file in files
        for name, tensor in read_safetensors_header(file).items()
        if name.endswith(".weight") and len(tensor.shape) >= 2
    }


def _kohya_name(layer: str) -> str:
    return layer.replace(".", "_")
