"""Keeps weights that two checkpoints share in memory once: the second model gets its own module over the same tensors.

It needs its own module, because lanes put hooks, attention and cache settings on the modules that they hold. Device
thread only.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from pathlib import Path
from typing import Any
from weakref import WeakSet

import torch


class SharedWeights:
    """The modules of one device whose weights can be shared. A module that no lane holds any more is dropped."""

    def __init__(self) -> None:
        self._modules: dict[tuple[str, torch.dtype], WeakSet[torch.nn.Module]] = defaultdict(WeakSet)

    def offer(self, identity: str, dtype: torch.dtype, module: torch.nn.Module) -> None:
        """Makes the module available to other models that contain the same weights."""
        self._modules[identity, dtype].add(module)

    def borrow(self, identity: str, dtype: torch.dtype, folder: Path, device: str) -> Any | None:
        """Returns a new module over weights that are on `device` already, None when there are none.

        folder: holds the configs of the new module.
        """
        device_type = torch.device(device).type
        for module in self._modules[identity, dtype]:
            if all(parameter.device.type == device_type for parameter in module.parameters()):
                return _module_over(module, folder)
        return None


def _module_over(lender: Any, folder: Path) -> Any:
    """Returns a module of the lender's class that uses the lender's tensors."""
    from accelerate import init_empty_weights
    from transformers import AutoConfig, GenerationConfig

    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    with init_empty_weights(include_buffers=False):
        module = type(lender)(config)
    for name, parameter in lender.named_parameters(remove_duplicate=False):
        owner, _, leaf = name.rpartition(".")
        module.get_submodule(owner)._parameters[leaf] = parameter
    buffers = dict(lender.named_buffers())
    for name, buffer in module.named_buffers():
        buffer.data = buffers[name].data
    if (folder / "generation_config.json").is_file():
        module.generation_config = GenerationConfig.from_pretrained(folder, local_files_only=True)
    elif lender.generation_config is not None:
        module.generation_config = copy.deepcopy(lender.generation_config)
    return module.eval()
