"""Weights of several linear layers in one piece of memory, of which each layer keeps its part as its own parameter.

Nothing is held twice, and whoever moves, shares or saves parameters finds them as before. Whoever moves them one by one
takes them apart. Device thread only.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pipelines import device


def is_plain(weight: Tensor) -> bool:
    """Whether it is a parameter of torch's own, and not a quantized one, which wraps others."""
    return type(weight) is nn.Parameter and type(weight.data) is Tensor


@torch.inference_mode(False)
@torch.no_grad()
def join(weights: Sequence[Tensor]) -> None:
    """Put plain, contiguous weights that differ in their first dimension alone into one new piece of memory."""
    whole = torch.cat([weight.data for weight in weights])
    device.finish(str(whole.device))  # the next use of the old memory may be on another stream
    for weight, part in zip(weights, whole.split([len(weight) for weight in weights]), strict=True):
        weight.data = part


def are_joined(weights: Sequence[Tensor]) -> bool:
    """Whether the weights follow one another in one piece of memory."""
    first, expected = weights[0], weights[0].storage_offset()
    for weight in weights:
        if weight.untyped_storage().data_ptr() != first.untyped_storage().data_ptr():
            return False
        if weight.storage_offset() != expected:
            return False
        expected += weight.numel()
    return True


def whole_of(weights: Sequence[Tensor]) -> Tensor:
    """The tensor of which joined weights are the parts, without a copy."""
    first = weights[0].data
    n_rows = sum(len(weight) for weight in weights)
    return first.as_strided((n_rows, *first.shape[1:]), first.stride(), first.storage_offset())
