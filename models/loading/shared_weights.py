"""Weights that two checkpoints have in common are in memory once: the second gets a module of its own over the first's tensors.

Its own, because lanes put hooks, attention and cache settings on the modules they hold. Device thread only.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from pathlib import Path
from typing import Any
from weakref import WeakSet

import torch


class SharedWeights:
    """Of one device. What nobody holds any more is forgotten."""

    def __init__(self) -> None:
        self._modules: dict[tuple[str, torch.dtype], WeakSet[torch.nn.Module]] = defaultdict(WeakSet)

    def offer(self, identity: str, dtype: torch.dtype, module: torch.nn.Module) -> None:
        self._modules[identity, dtype].add(module)

    def borrow(self, identity: str, dtype: torch.dtype, folder: Path, device: str) -> Any | None:
        """A module over weights that are on `device` already, None when there are none. `folder`: its configs."""
        place = torch.device(device)
        for module in self._modules[identity, dtype]:
            if all(parameter.device.type == place.type for parameter in module.parameters()):
                return _twin(module, folder)
        return None


def _twin(lender: Any, folder: Path) -> Any:
    from accelerate import init_empty_weights
    from transformers import AutoConfig, GenerationConfig

    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    with init_empty_weights(include_buffers=False):
        twin = type(lender)(config)
    for name, parameter in lender.named_parameters(remove_duplicate=False):
        owner, _, leaf = name.rpartition(".")
        twin.get_submodule(owner)._parameters[leaf] = parameter
    buffers = dict(lender.named_buffers())
    for name, buffer in twin.named_buffers():
        buffer.data = buffers[name].data
    if (folder / "generation_config.json").is_file():
        twin.generation_config = GenerationConfig.from_pretrained(folder, local_files_only=True)
    elif lender.generation_config is not None:
        twin.generation_config = copy.deepcopy(lender.generation_config)
    return twin.eval()
