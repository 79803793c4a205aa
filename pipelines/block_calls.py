"""Describes one call of a block without its tensors, so that another process can compile the block for such calls.

Device thread only. A description is small: weights and arguments are replaced by tensors without data (device "meta").
"""

from __future__ import annotations

import copy
import math
from collections import OrderedDict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree


@dataclass(frozen=True, slots=True)
class BlockCall:
    """A block and the arguments of one call of its `forward`, all without data."""

    name: str  # of the block's class
    block: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


def plain(value: Any) -> Any:
    """The same tensor, or tensors, without what compiled code would tell apart although it computes the same.

    That is whether a tensor was made as a view of another, and the stride of a dimension of size 1.
    """
    if isinstance(value, tuple):
        return tuple(map(plain, value)) if type(value) is tuple else value
    if type(value) is not torch.Tensor:
        return value
    if value.is_contiguous() and value.stride() != (strides := _strides_of_whole(value.shape)):
        value = value.as_strided(value.shape, strides)
    return value if value._base is None else value.detach()


def _strides_of_whole(shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))


def kind_of_call(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Hashable:
    """Calls of one kind can share compiled code, for any size above 1. Parts of tensors are of another kind.

    A part is what `hidden[:, 512:]` gives, whose strides are not the products of its own sizes.
    """
    leaves, structure = pytree.tree_flatten((args, dict(kwargs)))
    return str(structure), tuple(map(_kind_of_value, leaves))


def _kind_of_value(value: Any) -> Hashable:
    if isinstance(value, torch.Tensor):
        ones, whole = (size == 1 for size in value.shape), value.stride() == _strides_of_whole(value.shape)
        return value.dtype, value.device.type, *ones, whole
    return type(value), value if isinstance(value, bool | str | None) else None


def describe_call(block: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> BlockCall:
    """Copies structure and sizes. A weight in several parts, such as a quantized one, is copied to the host whole."""
    memo: dict[int, Any] = {}
    for tensor in (*block.parameters(), *block.buffers()):
        memo[id(tensor)] = _without_data(tensor)
    with _undressed(block):
        bare = copy.deepcopy(block, memo)
    seen: dict[int, Any] = {}

    def bare_value(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        if id(value) not in seen:  # one tensor given twice stays one
            seen[id(value)] = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
        return seen[id(value)]

    bare_args, bare_kwargs = pytree.tree_map(bare_value, (args, dict(kwargs)))
    return BlockCall(type(block).__name__, bare, bare_args, bare_kwargs)


@contextmanager
def _undressed(block: nn.Module) -> Iterator[None]:
    """Without what surrounds the block's own forward, which is not compiled and may refer to the whole model."""
    around = ("forward", "_diffusers_hook", "_forward_hooks", "_forward_pre_hooks")
    saved = {name: vars(block).pop(name) for name in around if name in vars(block)}
    block._forward_hooks, block._forward_pre_hooks = OrderedDict(), OrderedDict()
    try:
        yield
    finally:
        vars(block).update(saved)


def _without_data(tensor: torch.Tensor) -> torch.Tensor:
    is_whole = type(tensor.data) is torch.Tensor
    data = tensor.data.to("meta") if is_whole else tensor.data.cpu()
    return nn.Parameter(data, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else data


def materialize(call: BlockCall, device: torch.device) -> tuple[nn.Module, tuple[Any, ...], dict[str, Any]]:
    """The block and the arguments on the device, with arbitrary small numbers in place of the data."""

    def filled(tensor: torch.Tensor) -> torch.Tensor:
        if not tensor.is_meta:
            return tensor.to(device)
        made = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=device)
        return made.zero_()

    seen: dict[int, torch.Tensor] = {}

    def filled_value(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        if id(value) not in seen:
            seen[id(value)] = filled(value)
        return seen[id(value)]

    block = call.block._apply(filled)
    args, kwargs = pytree.tree_map(filled_value, (call.args, call.kwargs))
    return block, args, kwargs
