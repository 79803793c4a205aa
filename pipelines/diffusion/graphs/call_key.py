"""Describes a call of a denoiser by all that decides which kernels it launches, and on what. Device thread only."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from torch.utils import _pytree as pytree

from pipelines.cuda_graphs import CaptureFailed

_PLAIN = (bool, int, float, str, bytes, type(None), torch.dtype, torch.device)


def key_of(args: tuple[Any, ...], kwargs: Mapping[str, Any], device_type: str) -> Hashable:
    """Equal for calls that one recording can serve: their tensors differ in values alone, all else is the same.

    Raises `CaptureFailed` for arguments whose values the host reads, or of which nothing is known.
    """
    leaves, structure = pytree.tree_flatten((args, dict(kwargs)))
    return structure, tuple(_described(leaf, device_type) for leaf in leaves)


def _described(leaf: Any, device_type: str) -> Hashable:
    if type(leaf) is torch.Tensor:
        if leaf.device.type != device_type:
            raise CaptureFailed("a tensor among its arguments, such as the timestep, is in host memory")
        return leaf.shape, leaf.stride(), leaf.dtype
    if isinstance(leaf, _PLAIN):
        return type(leaf), leaf
    raise CaptureFailed(f"one of its arguments is a {type(leaf).__name__}")
