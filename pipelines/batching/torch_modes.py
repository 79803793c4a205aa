"""Saves and restores the modes that torch keeps per thread: gradient mode and autocast. Device thread only.

A suspended task or forward must leave none of its modes to the code that runs next.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

DEVICE_TYPES = ("cpu", "cuda")


@dataclass(frozen=True, slots=True)
class TorchModes:
    grad: bool
    autocast: tuple[tuple[bool, torch.dtype], ...]  # (enabled, dtype) of each of DEVICE_TYPES
    autocast_caches: bool

    def restore(self) -> None:
        if self == current():
            return
        torch.set_grad_enabled(self.grad)
        for device_type, (enabled, dtype) in zip(DEVICE_TYPES, self.autocast, strict=True):
            torch.set_autocast_enabled(device_type, enabled)
            torch.set_autocast_dtype(device_type, dtype)
        torch.set_autocast_cache_enabled(self.autocast_caches)
        torch.clear_autocast_cache()  # it holds casts made by other code


def current() -> TorchModes:
    return TorchModes(
        torch.is_grad_enabled(),
        tuple((torch.is_autocast_enabled(name), torch.get_autocast_dtype(name)) for name in DEVICE_TYPES),
        torch.is_autocast_cache_enabled(),
    )
