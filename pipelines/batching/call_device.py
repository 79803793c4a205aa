"""Brings the arguments of a call to the device that computes. Device thread only.

Stock pipelines ask a module where it is and move their latents there (`latents.to(self.vae.device)`). While that module
is parked in host memory the answer is the CPU, but by the time the call runs its weights are back on the device.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.utils import _pytree as pytree


def on_device(arguments: Any, device: torch.device) -> Any:
    """The same arguments with every tensor of the CPU on `device`. Scalars stay: kernels read them from anywhere."""

    def moved(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(device) if tensor.ndim and tensor.device.type == "cpu" else tensor

    return pytree.tree_map_only(torch.Tensor, moved, arguments)
