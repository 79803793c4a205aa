"""The forward of a decode step as a function of tokens and positions, its small kernels fused by `torch.compile`.

Compiled code is for decode steps alone: prompts have another length each time and would be compiled again and again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from pipelines.chat.decode.options import Compiled

# (tokens (1, R) int64, positions (1, R) int32) → logits (1, R, V)
Forward: TypeAlias = Callable[[Tensor, Tensor], Tensor]

# With one row, matrix products become sums that fuse with what surrounds them and come closer to the memory's rate;
# sums side by side share a kernel, and a kernel begins while the one before it ends (programmatic dependent launch).
ONE_ROW: dict[str, Any] = {
    "coordinate_descent_tuning": True,
    "combo_kernels": True,
    "triton.enable_pdl": True,  # Hopper and newer; no effect elsewhere
}


def forward_of(model: Any, compiled: Compiled) -> Forward:
    def forward(tokens: Tensor, positions: Tensor) -> Tensor:
        logits: Tensor = model(input_ids=tokens, position_ids=positions, use_cache=False).logits
        return logits

    if compiled == "model":
        return _by_rows(torch.compile(forward, dynamic=False, options=ONE_ROW), torch.compile(forward, dynamic=True))
    if compiled == "layers":
        layers = repeated_layers(model)

        def with_layers(compile_layer: Callable[[Any], Any]) -> Forward:
            replaced = [compile_layer(layer.forward) for layer in layers]

            def run(tokens: Tensor, positions: Tensor) -> Tensor:
                with _forwards(layers, replaced):
                    return forward(tokens, positions)

            return run

        return _by_rows(
            with_layers(lambda call: torch.compile(call, dynamic=False, options=ONE_ROW)),
            with_layers(lambda call: torch.compile(call, dynamic=True)),
        )
    return forward


def repeated_layers(model: nn.Module) -> Sequence[nn.Module]:
    """The longest list of modules of one class: the model's decoder layers."""
    lists = [[*each] for each in model.modules() if isinstance(each, nn.ModuleList)]
    alike = [each for each in lists if each and len({type(layer) for layer in each}) == 1]
    return max(alike, key=len, default=[])


def _by_rows(one: Forward, many: Forward) -> Forward:
    def forward(tokens: Tensor, positions: Tensor) -> Tensor:
        return (one if tokens.shape[1] == 1 else many)(tokens, positions)

    return forward


@contextmanager
def _forwards(layers: Sequence[nn.Module], replaced: Sequence[Callable[..., Any]]) -> Iterator[None]:
    """The layers run these functions in place of their own forward in this block."""
    for layer, call in zip(layers, replaced, strict=True):
        layer.__dict__["forward"] = call
    try:
        yield
    finally:
        for layer in layers:
            del layer.__dict__["forward"]
