"""Finds what a forward reads besides its arguments and its weights, such as a table that it cached.

A graph reads memory at the addresses of its recording. Weights and arguments have an owner that is known; memory of any
other tensor could be given to something else while the graph exists, unless somebody holds on to the tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from pipelines.cuda_graphs import CaptureFailed

COPIES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)


class OutsideTensors(TorchDispatchMode):
    """Within this context, `found` collects the tensors that operations read and did not make, but for `known` ones.

    An operation that copies from host memory to the device raises `CaptureFailed`: a graph would read that memory again
    although it may be gone.
    """

    def __init__(self, known: Iterable[torch.Tensor]) -> None:
        super().__init__()
        self._known = set(map(_memory_of, known))
        self.found: list[torch.Tensor] = []

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        read = _tensors((args, kwargs))
        for tensor in read:
            if (memory := _memory_of(tensor)) not in self._known:
                self._known.add(memory)
                self.found.append(tensor)
        output = func(*args, **kwargs)
        made = _tensors(output)
        if func in COPIES and any(_on_host(tensor) for tensor in read) and not all(map(_on_host, made)):
            raise CaptureFailed("its forward copies from host memory")
        self._known |= set(map(_memory_of, made))
        return output


def read_outside(work: Callable[[], object], known: Iterable[torch.Tensor]) -> list[torch.Tensor]:
    """Run the work, and return the tensors that it reads and does not make, without the known ones."""
    outside = OutsideTensors(known)
    with outside:
        work()
    return outside.found


def _tensors(values: Any) -> list[torch.Tensor]:
    return [leaf for leaf in pytree.tree_leaves(values) if isinstance(leaf, torch.Tensor)]


def _on_host(tensor: torch.Tensor) -> bool:
    return tensor.device.type == "cpu"


def _memory_of(tensor: torch.Tensor) -> int:
    """What tensors have in common that share memory. Tensors of other kinds, such as quantized ones, are on their own.

    While a tensor is alive, no other memory has the same number. Tensors that were there before the work are.
    """
    if type(tensor) in (torch.Tensor, torch.nn.Parameter):
        return int(tensor.untyped_storage()._cdata)
    return id(tensor)
