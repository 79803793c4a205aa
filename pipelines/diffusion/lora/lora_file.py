"""Reads a LoRA file and checks it before any library sees it. Any thread.

A file that lacks a half of a layer, holds values that are not numbers, or whose halves have different ranks is refused
with the name of the tensor: peft would make the layers and leave in them what lay in memory.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file

from pipelines.diffusion.lora.layer_names import HALVES, missing_half, without_adapter_name
from pipelines.diffusion.lora.provenance import traced

METADATA = "lora_adapter_metadata"  # diffusers' key in the header, JSON
ALPHA = ".alpha"
DOWN_ENDINGS = (".lora_A.weight", ".lora_down.weight", ".down.weight")
SHOWN = 3  # names in one message
MAX_NAME_CHARS = 120  # of a tensor in a message


class BadLora(Exception):
    """This pipeline cannot use this file. The message may be shown to the client."""


@dataclass(frozen=True, slots=True)
class LoraFile:
    tensors: Mapping[str, torch.Tensor]  # each knows its name, see lora_provenance.py
    settings: Mapping[str, Any]  # peft's settings from the header: r, lora_alpha, …, maybe after COMPONENT.
    without_alpha: tuple[str, ...]  # layers, where others of the file have one


def read_lora(path: Path, name: str) -> LoraFile:
    """name: of the LoRA, for messages. Raises `BadLora`."""
    state = _without_adapter_names(load_file(path), name)
    for key, tensor in state.items():
        _check_finite(key, tensor, name)
    if absent := missing_half(state):
        raise BadLora(f"The LoRA {name} is incomplete: it has {shown(absent[0])} without {shown(absent[1])}.")
    for key, tensor in state.items():
        _check_ranks(key, tensor, state, name)
    tensors = {key: traced(_readable(key, tensor), key) for key, tensor in state.items()}
    return LoraFile(tensors, _settings(path, name), _without_alpha(state))


def names(items: list[str] | tuple[str, ...]) -> str:
    """A list for a message: the first few, and how many more there are."""
    more = len(items) - SHOWN
    listed = ", ".join(shown(item) for item in items[:SHOWN])
    return f"{listed} and {more} more" if more > 0 else listed


def shown(tensor: str) -> str:
    return tensor if len(tensor) <= MAX_NAME_CHARS else f"{tensor[:MAX_NAME_CHARS]}…"


def _without_adapter_names(state: dict[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    found: set[str] = set()
    renamed: dict[str, torch.Tensor] = {}
    for key, tensor in state.items():
        plain, adapter = without_adapter_name(key)
        found |= {adapter} if adapter else set()
        renamed[plain] = tensor
    if len(found) > 1 or len(renamed) < len(state):
        raise BadLora(f"The LoRA {name} holds several adapters: {names(sorted(found))}. A file may hold one.")
    return renamed


def _check_finite(key: str, tensor: torch.Tensor, name: str) -> None:
    if key.endswith(ALPHA) and tensor.numel() != 1:
        raise BadLora(f"The LoRA {name} is damaged: {shown(key)} is not one number.")
    if not tensor.is_floating_point():
        if key.endswith(tuple(HALVES)):
            raise BadLora(f"The LoRA {name} is not usable: {shown(key)} holds whole numbers instead of floats.")
        return
    values = _as_float(tensor)
    # The sum is one pass without a copy; only where it overflows is each value looked at.
    if not torch.isfinite(values.sum(dtype=torch.float32)) and not torch.isfinite(values).all():
        raise BadLora(f"The LoRA {name} is damaged: {shown(key)} holds values that are not finite numbers.")


def _as_float(tensor: torch.Tensor) -> torch.Tensor:
    """Torch does not calculate with floats of 8 bits; bfloat16 holds each of their values."""
    return tensor.to(torch.bfloat16) if tensor.is_floating_point() and tensor.itemsize == 1 else tensor


def _readable(key: str, tensor: torch.Tensor) -> torch.Tensor:
    """diffusers refuses an alpha that is a whole number."""
    return tensor.float() if key.endswith(ALPHA) else _as_float(tensor)


def _check_ranks(key: str, down: torch.Tensor, state: dict[str, torch.Tensor], name: str) -> None:
    ending = next((ending for ending in DOWN_ENDINGS if key.endswith(ending)), "")
    if not ending or (up := state[other := key.removesuffix(ending) + HALVES[ending]]).ndim < 2 or down.ndim < 2:
        return
    # In a file with a factor between the halves (`lora_mid`) both end at it with the same rank.
    if down.shape[0] != up.shape[1] or not down.shape[0]:
        raise BadLora(
            f"The LoRA {name} is damaged: {shown(key)} {tuple(down.shape)} and {shown(other)} {tuple(up.shape)} "
            "have no rank in common."
        )


def _without_alpha(state: dict[str, torch.Tensor]) -> tuple[str, ...]:
    layers = {key.removesuffix(ending) for key in state for ending in HALVES if key.endswith(ending)}
    with_alpha = {key.removesuffix(ALPHA) for key in state if key.endswith(ALPHA)}
    return tuple(sorted(layers - with_alpha)) if layers & with_alpha else ()


def _settings(path: Path, name: str) -> Mapping[str, Any]:
    with safe_open(path, "pt") as file:
        text = (file.metadata() or {}).get(METADATA)
    if text is None:
        return {}
    try:
        settings = json.loads(text)
    except ValueError:
        settings = None
    if not isinstance(settings, dict):
        raise BadLora(f"The LoRA {name} is damaged: {METADATA} in its header is not a JSON object.")
    return settings
