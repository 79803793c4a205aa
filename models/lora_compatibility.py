"""Decides from file headers whether a LoRA can belong to a checkpoint, before a job is accepted. Any thread; no torch.

It judges only where both files use diffusers' names: the denoiser of a checkpoint folder, and a LoRA in the naming of
diffusers or of kohya's trainer for these layers. A file with other names is left to the library, which can rename them
(pipelines/diffusion/lora.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path

from models.files.safetensors_header import read_safetensors_header
from models.files.weight_files import weight_files
from models.fingerprint import fingerprint

DENOISERS = ("unet", "transformer")
DOWN = re.compile(r"(?:\.lora_A|\.lora_down|\.lora\.down)\.weight$")  # the factor that reads the layer's input
KOHYA_PREFIX = re.compile(r"lora_unet_(?=down_blocks_|mid_block_|up_blocks_)")
DIFFUSERS_PREFIX = re.compile(r"(?:unet|transformer)\.")


def may_fit(lora: Path, checkpoint: Path) -> bool:
    """Returns False when no layer that the LoRA names exists in the denoiser with as many inputs."""
    if not checkpoint.is_dir():
        return True
    wanted = _lora_layers(lora, fingerprint(lora))
    layers = _denoiser_layers(checkpoint, fingerprint(checkpoint))
    return not wanted or not layers or any(layers.get(name) == inputs for name, inputs in wanted.items())


@lru_cache(maxsize=256)
def _lora_layers(lora: Path, _fingerprint: str) -> Mapping[str, int]:
    """Returns layer → number of inputs, empty when a name is in neither naming."""
    found: dict[str, int] = {}
    for key, tensor in read_safetensors_header(lora).items():
        if not DOWN.search(key) or key.startswith(("text_encoder", "lora_te")):
            continue
        prefix = KOHYA_PREFIX.match(key) or DIFFUSERS_PREFIX.match(key)
        if prefix is None or ".processor." in key or len(tensor.shape) < 2:
            return {}
        found[_kohya_name(DOWN.sub("", key[prefix.end() :]))] = tensor.shape[1]
    return found


@lru_cache(maxsize=256)
def _denoiser_layers(checkpoint: Path, _fingerprint: str) -> Mapping[str, int]:
    """Returns layer → number of inputs."""
    files: Iterable[Path] = (
        file for part in DENOISERS if (checkpoint / part).is_dir() for file in weight_files(checkpoint / part)
    )
    return {
        _kohya_name(name.removesuffix(".weight")): tensor.shape[1]
        for file in files
        for name, tensor in read_safetensors_header(file).items()
        if name.endswith(".weight") and len(tensor.shape) >= 2
    }


def _kohya_name(layer: str) -> str:
    return layer.replace(".", "_")
