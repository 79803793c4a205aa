"""Decides whether the blocks of denoisers and the layers of language models are compiled, and says why not.

Device thread only.
"""

from __future__ import annotations

from typing import Any

import torch

from models.spec import ModelSpec

UNCOMPILED = "Its blocks run uncompiled: {}."
COMPILED_SINCE = (8, 0)  # Ampere: bfloat16 in Triton
STEPS_UNCOMPILED = "Its decode steps run uncompiled: {}."


def denoisers_to_compile(
    pipeline: Any, spec: ModelSpec, device: str, offload: bool
) -> tuple[list[torch.nn.Module], list[str]]:
    """The denoisers whose blocks are to be compiled, and a sentence about why there are none.

    Without `load.compile`, blocks are compiled on CUDA: on a CPU the compiler takes longer than it saves.
    """
    wanted = spec.load.compile
    if wanted is False or (wanted is None and not device.startswith("cuda")):
        return [], []
    if offload:
        return [], [UNCOMPILED.format("the weights are copied to the device block by block while they run")]
    if spec.load.quantization == "fp8-layerwise":
        return [], [UNCOMPILED.format("fp8-layerwise casts the weights of a layer whenever it runs")]
    modules = [module for module in vars(pipeline).values() if isinstance(module, torch.nn.Module)]
    found = [
        module for module in modules if getattr(module, "_repeated_blocks", None) and not hasattr(module, "decode")
    ]
    if not found:
        return [], [UNCOMPILED.format("the class of its denoiser names no repeated blocks")]
    for denoiser in found:
        kinds = {type(weight).__name__ for weight in denoiser.parameters() if not _compiles(weight)}
        if kinds:
            return [], [UNCOMPILED.format(f"its weights are {', '.join(sorted(kinds))}")]
    return found, []


def compiles_steps(model: Any, spec: ModelSpec, device: str) -> tuple[bool, list[str]]:
    """Whether the layers of a language model are to be compiled for decode steps, and a sentence about why not.

    Without `load.compile`, they are on CUDA: on a CPU no graph takes the launches away that are most of a step.
    """
    if spec.load.compile is False or not device.startswith("cuda"):
        return False, []
    if torch.cuda.get_device_capability(device) < COMPILED_SINCE:
        return False, [STEPS_UNCOMPILED.format("the compiler's code is not fast on a GPU as old as this one")]
    kinds = {type(weight).__name__ for weight in model.parameters() if not _compiles(weight)}
    if kinds:
        return False, [STEPS_UNCOMPILED.format(f"its weights are {', '.join(sorted(kinds))}")]
    return True, []


def _compiles(weight: torch.nn.Parameter) -> bool:
    """Whether the compiler knows this kind of tensor: torch's own, and those of torchao."""
    if type(weight.data).__module__.startswith("torchao."):
        return True
    return type(weight) is torch.nn.Parameter and type(weight.data) is torch.Tensor
