"""Is a LoRA for a checkpoint's layers at all? Told from the headers of both, before a job is taken. No torch.

Only where both say the names of diffusers: a denoiser's layers in a folder, and a file of diffusers' own or of kohya's trainer for them.
What speaks of the layers in another way is left to the library, which knows how to rename them (pipelines/diffusion/lora.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path

from models.files import read_safetensors_header, weight_files
from models.fingerprint import fingerprint

DENOISERS = ("unet", "transformer")
DOWN = re.compile(
    r"(?:\.lora_A|\.lora_down|\.lora\.down)\.weight$"
)  # of the product's two factors the one that reads the layer's input
KOHYA = re.compile(r"lora_unet_(?=down_blocks_|mid_block_|up_blocks_)")
OWN = re.compile(r"(?:unet|transformer)\.")


def may_fit(lora: Path, checkpoint: Path) -> bool:
    """False when none of the denoiser's layers that it names is there with as many inputs."""
    if not checkpoint.is_dir():
        return True
    wanted = _wanted(lora, fingerprint(lora))
    layers = _layers(checkpoint, fingerprint(checkpoint))
    return not wanted or not layers or any(layers.get(name) == inputs for name, inputs in wanted.items())


@lru_cache(maxsize=256)
def _wanted(lora: Path, _: str) -> Mapping[str, int]:
    """Layer → its inputs; empty when not all can be told."""
    found: dict[str, int] = {}
    for key, tensor in read_safetensors_header(lora).items():
        if not DOWN.search(key) or key.startswith(("text_encoder", "lora_te")):
            continue
        prefix = KOHYA.match(key) or OWN.match(key)
        if prefix is None or ".processor." in key or len(tensor.shape) < 2:
            return {}
        found[_plain(DOWN.sub("", key[prefix.end() :]))] = tensor.shape[1]
    return found


@lru_cache(maxsize=256)
def _layers(checkpoint: Path, _: str) -> Mapping[str, int]:
    files: Iterable[Path] = (
        file for part in DENOISERS if (checkpoint / part).is_dir() for file in weight_files(checkpoint / part)
    )
    return {
        _plain(name.removesuffix(".weight")): tensor.shape[1]
        for file in files
        for name, tensor in read_safetensors_header(file).items()
        if name.endswith(".weight") and len(tensor.shape) >= 2
    }


def _plain(layer: str) -> str:
    """As kohya's trainer writes it."""
    return layer.replace(".", "_")
