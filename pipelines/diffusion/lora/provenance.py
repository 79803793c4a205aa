"""Tensors that know which tensors of a file they were computed from, through whatever a library does with them.

So what diffusers' conversions leave out can be told by name, without a list of their habits. Any thread.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch


class Traced(torch.Tensor):
    sources: frozenset[str]
    latest: frozenset[str] = frozenset()  # sources of the operation that ran last: names the tensor when it failed

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        sources = frozenset[str]().union(*(sources_of(each) for each in _tensors([args, kwargs or {}])))
        Traced.latest = sources
        # A conversion that fails half-way must leave the file's tensors as they were, for the next one.
        func = torch.Tensor.mul if func is torch.Tensor.mul_ else func
        result = super().__torch_function__(func, types, args, kwargs or {})
        for tensor in _tensors(result):
            if isinstance(tensor, Traced):
                tensor.sources = sources
        return result


def traced(tensor: torch.Tensor, name: str) -> Traced:
    result = tensor.as_subclass(Traced)
    result.sources = frozenset((name,))
    return result


def sources_of(tensor: torch.Tensor) -> frozenset[str]:
    """Names of the file's tensors that this one was computed from."""
    return getattr(tensor, "sources", frozenset())


def plain(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.as_subclass(torch.Tensor)


def _tensors(values: Any) -> Iterator[torch.Tensor]:
    if isinstance(values, torch.Tensor):
        yield values
    elif isinstance(values, list | tuple):
        for value in values:
            yield from _tensors(value)
    elif isinstance(values, Mapping):
        yield from _tensors(list(values.values()))
