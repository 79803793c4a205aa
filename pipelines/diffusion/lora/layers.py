"""The layers of a pipeline that can take a LoRA, by name, and the shapes that each needs. Device thread only."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch

# Wan 2.2's second denoiser gets a LoRA only where a caller asks diffusers for it.
NOT_BY_ITSELF = frozenset({"transformer_2"})

Layers = dict[str, dict[str, torch.nn.Module]]  # component → name → module; the denoiser comes first


class Shapes(NamedTuple):
    down: tuple[int, ...]  # of lora_A, without its rank
    up: tuple[int, ...]  # of lora_B after its rank
    n_outputs: int


def layers_of(pipeline: Any) -> Layers:
    return {
        name: dict(_layers_in(component))
        for name in pipeline._lora_loadable_modules
        if name not in NOT_BY_ITSELF and isinstance(component := getattr(pipeline, name, None), torch.nn.Module)
    }


def _layers_in(component: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Module]]:
    """The modules without their wrappers of peft, by the names that they have without those."""
    adapted: tuple[str, ...] = ()
    for name, module in component.named_modules():
        if name.startswith(adapted) and adapted:
            continue
        if isinstance(base := getattr(module, "base_layer", None), torch.nn.Module):
            adapted += (f"{name}.",)
            module = base
        if shapes_of(module) is not None:
            yield name, module


def shapes_of(module: torch.nn.Module) -> Shapes | None:
    """None: a LoRA cannot be on such a module. Quantized linear layers keep their sizes beside their packed weights."""
    n_inputs, n_outputs = getattr(module, "in_features", None), getattr(module, "out_features", None)
    if isinstance(n_inputs, int) and isinstance(n_outputs, int):
        return Shapes((n_inputs,), (), n_outputs)
    if isinstance(module, torch.nn.Conv1d | torch.nn.Conv2d | torch.nn.Conv3d) and module.groups == 1:
        kernel = tuple(module.kernel_size)
        return Shapes((module.in_channels, *kernel), (1,) * len(kernel), module.out_channels)
    return None
