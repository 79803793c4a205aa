"""Linear layers that read the same input, such as those for queries, keys and values, as one matrix product.

With a few rows a product takes as long as its weights are read, and small ones do not keep the memory busy. A layer of
Llama has four products then instead of seven. The weights of such layers are put into one piece of memory, of which
each keeps its part (`pipelines/joined_weights.py`). Whoever moves them takes them apart; `join` puts them together
again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pipelines import device
from pipelines.joined_weights import are_joined, is_plain, join, whole_of

# The allocator keeps tensors of this size in common pieces of 20 MiB, which it can return only when they are empty.
SHARING_BYTES = range(1 << 20, 10 << 20)


@dataclass(frozen=True, slots=True)
class Group:
    """Layers of one module, in the order in which it calls them."""

    parent: nn.Module
    names: tuple[str, ...]

    @property
    def layers(self) -> list[nn.Linear]:
        return [getattr(self.parent, name) for name in self.names]


class JoinedLinears:
    """Those of one model. Device thread only."""

    def __init__(self, model: nn.Module, run: Callable[[], Any]) -> None:
        """run: a forward of the model, in which the layers are watched."""
        self._model = model
        self._groups = _find_groups(model, run)

    @torch.inference_mode(False)
    @torch.no_grad()
    def join(self) -> None:
        """Put the weights of each group into one piece of memory, where they are not."""
        apart = [group.layers for group in self._groups if not are_joined([each.weight for each in group.layers])]
        for layers in apart:
            join([each.weight for each in layers])
            if layers[0].bias is not None:
                join([each.bias for each in layers])
        if apart:
            self._return_memory()

    def _return_memory(self) -> None:
        """Move what is left between the pieces that have become free, so that the device gets these back."""
        joined = {id(weight) for group in self._groups for layer in group.layers for weight in layer.parameters()}
        for weight in self._model.parameters():
            if id(weight) not in joined and weight.is_cuda and is_plain(weight) and weight.nbytes in SHARING_BYTES:
                weight.data = weight.data.clone()
        device.release_cache()

    @contextmanager
    def used(self) -> Iterator[None]:
        """In this block, the first layer of each group computes for all of them."""
        own = [
            (group.parent._modules, name, group.parent._modules[name]) for group in self._groups for name in group.names
        ]
        for group in self._groups:
            first = _First(group.layers)
            group.parent._modules[group.names[0]] = first
            for name in group.names[1:]:
                group.parent._modules[name] = _Other(first)
        try:
            yield
        finally:
            for modules, name, layer in own:
                modules[name] = layer


class _First(nn.Module):
    def __init__(self, layers: Sequence[nn.Linear]) -> None:
        super().__init__()
        with torch.inference_mode(False), torch.no_grad():
            self.weight = nn.Parameter(whole_of([layer.weight for layer in layers]), requires_grad=False)
            biases = [layer.bias for layer in layers if layer.bias is not None]
            self.bias = nn.Parameter(whole_of(biases), requires_grad=False) if biases else None
        self.sizes = [layer.out_features for layer in layers]
        self.results: list[Tensor] = []  # of the other layers, which are called next

    def forward(self, hidden: Tensor) -> Tensor:
        self.results = list(nn.functional.linear(hidden, self.weight, self.bias).split(self.sizes, -1))
        return self.results.pop(0)


class _Other(nn.Module):
    def __init__(self, first: _First) -> None:
        super().__init__()
        self.first = [first]  # in a list, where it is no submodule

    def forward(self, hidden: Tensor) -> Tensor:
        return self.first[0].results.pop(0)


@dataclass(frozen=True, slots=True)
class _Call:
    parent: nn.Module
    name: str
    layer: nn.Linear
    given: Tensor

    def is_like(self, other: _Call) -> bool:
        same = self.parent is other.parent and self.given is other.given
        one, two = self.layer, other.layer
        return same and one.weight.dtype == two.weight.dtype and (one.bias is None) == (two.bias is None)


def _find_groups(model: nn.Module, run: Callable[[], Any]) -> list[Group]:
    """Layers of one module that get the same tensor, with no other layer called between them, and each once."""
    counts = Counter(id(weight) for _, weight in model.named_parameters(remove_duplicate=False))
    calls: list[_Call | None] = []  # holds what the layers are given, so that no tensor is mistaken for another
    hooks = []
    for parent in model.modules():
        for name, layer in parent._modules.items():
            if not isinstance(layer, nn.Linear):
                continue
            joinable = _is_joinable(layer, counts)

            def note(
                layer: nn.Linear, args: Any, parent: nn.Module = parent, name: str = name, joinable: bool = joinable
            ) -> None:
                calls.append(_Call(parent, name, layer, args[0]) if joinable and args else None)

            hooks.append(layer.register_forward_pre_hook(note))
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    n_calls = Counter(id(call.layer) for call in calls if call is not None)
    found: list[list[_Call]] = []
    for call in calls:
        if call is None or n_calls[id(call.layer)] > 1:
            found.append([])
        elif found and found[-1] and found[-1][-1].is_like(call):
            found[-1].append(call)
        else:
            found.append([call])
    return [Group(each[0].parent, tuple(call.name for call in each)) for each in found if len(each) > 1]


def _is_joinable(layer: nn.Linear, counts: Counter[int]) -> bool:
    if type(layer) is not nn.Linear or "forward" in vars(layer) or layer._forward_hooks or layer._forward_pre_hooks:
        return False
    weights = list(layer.parameters())
    return all(is_plain(each) and each.is_contiguous() and counts[id(each)] == 1 for each in weights)
