"""Lets a task run a shared VAE in another dtype, without changing it for other tasks. Device thread only.

Pipelines of Stable Diffusion XL turn the whole VAE into float32 for one call, because it overflows in float16, and back
afterwards. Left on the module, that would reach the calls of other tasks, and the weights would come back as other
memory than was counted. So the module keeps its dtype: what a task asks for is noted for the task, and holds for the
duration of its calls.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import greenlet
import torch
from torch import nn
from torch.utils import _pytree as pytree

from pipelines.batching.task import Task


def keep_dtype(module: nn.Module) -> Callable[..., nn.Module]:
    """A method `to` of the module that notes the dtype for the task that calls it. Other code gets the real one."""
    to = module.to

    @functools.wraps(to)
    def noted(*args: Any, **kwargs: Any) -> nn.Module:
        task = greenlet.getcurrent()
        if not isinstance(task, Task) or task.parent is None:
            return to(*args, **kwargs)
        _, dtype, *_ = torch._C._nn._parse_to(*args, **kwargs)
        if dtype is not None:
            task.dtypes[id(module)] = dtype
        return module

    return noted


def in_dtype_of_task(
    task: Task, module: Any, function: Callable[..., Any], arguments: Any
) -> tuple[Callable[..., Any], Any]:
    """The function, an entry of the module, and its arguments as the task wants them to run."""
    dtype = task.dtypes.get(id(module))
    if dtype is None or dtype == next(module.parameters()).dtype:
        return function, arguments
    cast = pytree.tree_map_only(torch.Tensor, lambda t: t.to(dtype) if t.is_floating_point() else t, arguments)
    return InDtype(module, dtype, function), cast


class InDtype:
    """An entry of a module that has another dtype while it runs."""

    def __init__(self, module: nn.Module, dtype: torch.dtype, function: Callable[..., Any]) -> None:
        self.__self__ = module  # as of a method
        self._dtype = dtype
        self._function = function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        tensors = [t for t in (*self.__self__.parameters(), *self.__self__.buffers()) if t.is_floating_point()]
        kept = [tensor.data for tensor in tensors]
        try:
            for tensor in tensors:
                tensor.data = tensor.data.to(self._dtype)
            return self._function(*args, **kwargs)
        finally:
            for tensor, data in zip(tensors, kept, strict=True):
                tensor.data = data
