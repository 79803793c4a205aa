"""Builds models with random weights on a device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from diffusers import ModelMixin

from benchmarks.families.family import fill


def built(device: str, dtype: torch.dtype, build: Callable[[], Any]) -> Any:
    """Builds a pipeline or a model with its weights created on the device in `dtype`, ready for inference.

    Random numbers on the CPU would take minutes, and float32 first would take twice the memory.
    """
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            made = build()
    finally:
        torch.set_default_dtype(before)
    made = made.to(
        device
    )  # without the dtype: buffers such as tables of angles keep their own, as in `from_pretrained`
    modules = [made] if isinstance(made, torch.nn.Module) else made.components.values()
    for module in modules:
        if isinstance(module, torch.nn.Module):
            fill(module.eval().requires_grad_(False))
        if isinstance(module, ModelMixin):
            _keep_in_float32(module)
    return made


def _keep_in_float32(module: ModelMixin) -> None:
    """Does what `from_pretrained` does for the parts that a class of diffusers wants in float32 at any dtype."""
    kept = module._keep_in_fp32_modules or ()
    for name, parameter in module.named_parameters():
        if any(part in kept for part in name.split(".")):
            parameter.data = parameter.data.float()


def on_cpu(cls: type, **options: Any) -> Any:
    """Builds a noise scheduler on the CPU: it calculates with numpy, which cannot read tensors of a GPU."""
    with torch.device("cpu"):
        return cls(**options)
