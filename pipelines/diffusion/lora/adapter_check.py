"""Compares the layers that peft has made for a LoRA with the tensors that they were made from. Device thread only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True, slots=True)
class Injected:
    adapted: frozenset[str]  # COMPONENT.LAYER
    foreign: str | None  # a parameter that does not hold what the file holds, as COMPONENT.LAYER.PART


def compare(pipeline: Any, adapter: str, tensors: Mapping[str, torch.Tensor]) -> Injected:
    """adapter: its name in peft. tensors: by COMPONENT.LAYER.PART. One tensor at a time is copied to host memory."""
    expected = {key.removesuffix(".weight"): tensor for key, tensor in tensors.items()}
    adapted: set[str] = set()
    for component, module in pipeline.components.items():
        if not isinstance(module, torch.nn.Module):
            continue
        for name, parameter in module.named_parameters():
            levels = name.split(".")
            if adapter not in levels:
                continue
            at = levels.index(adapter)
            layer = ".".join((component, *levels[: at - 1]))
            part = ".".join((levels[at - 1], *levels[at + 1 :])).removesuffix(".weight")
            if not _equal(parameter, expected.get(f"{layer}.{part}")):
                return Injected(frozenset(adapted), f"{layer}.{part}")
            adapted.add(layer)
    return Injected(frozenset(adapted), None)


def _equal(parameter: torch.Tensor, tensor: torch.Tensor | None) -> bool:
    """A parameter without a tensor must be zero: diffusers adds such halves for layers that a text-to-video LoRA of Wan
    lacks in an image-to-video model."""
    if parameter.is_meta:
        return False
    held = parameter.detach().cpu()
    return not held.any() if tensor is None else torch.equal(held, tensor.to(held.dtype))
