"""The forward of a decode step as a function of tokens and positions, with its layers as written or compiled.

`torch.compile` fuses the small kernels of a layer. Compiled code is for decode steps alone: prompts have another length
each time. The layers of a model share the code, and each number of rows, a power of two, has code of its own.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias
from unittest import mock

import torch
from torch import Tensor, nn

from pipelines import stable_pickles  # noqa: F401  # what it is imported for is done by the import
from pipelines.block_calls import plain

# (tokens (1, R) int64, positions (1, R) int32) → logits (1, R, V)
Forward: TypeAlias = Callable[[Tensor, Tensor], Tensor]

SEVERAL_ROWS: dict[str, Any] = {
    "combo_kernels": True,  # what is computed side by side shares a kernel
    "triton.enable_pdl": True,  # a kernel begins while the one before it ends: Hopper and newer, no effect elsewhere
    # torch 2.11 takes bundled kernels from its cache as they were before they were tuned, and tunes them again.
    "bundle_triton_into_fx_graph_cache": False,
}
# With one row, matrix products become sums that fuse with what surrounds them and come closer to the memory's rate.
ONE_ROW: dict[str, Any] = {**SEVERAL_ROWS, "coordinate_descent_tuning": True}

# Compiled forms that torch keeps of one `forward` before it refuses to make more. Models of one class share its code.
MOST_FORMS_OF_CODE = 64


class NotCompiledYet(Exception):
    """The compiler's cache on disk lacks the code. Compiling takes long, which no chat is to wait for."""


def forward_of(model: Any) -> Forward:
    def forward(tokens: Tensor, positions: Tensor) -> Tensor:
        logits: Tensor = model(input_ids=tokens, position_ids=positions, use_cache=False).logits
        return logits

    return forward


def compiled_forward_of(model: Any, rows: int) -> Forward:
    """Compiled at its first call."""
    layers, forward = repeated_layers(model), forward_of(model)
    replaced = [compiled_layer(layer.forward, rows) for layer in layers]

    def run(tokens: Tensor, positions: Tensor) -> Tensor:
        with forwards_replaced(layers, replaced):
            return forward(tokens, positions)

    return run


def compiled_layer(forward: Callable[..., Any], rows: int) -> Callable[..., Any]:
    compiled = torch.compile(forward, dynamic=False, options=ONE_ROW if rows == 1 else SEVERAL_ROWS)

    @functools.wraps(forward)
    def run(*args: Any, **kwargs: Any) -> Any:
        args, kwargs = plain_arguments(args, kwargs)
        limits = {"recompile_limit": MOST_FORMS_OF_CODE, "accumulated_recompile_limit": 4 * MOST_FORMS_OF_CODE}
        with torch._dynamo.config.patch(limits):
            return compiled(*args, **kwargs)

    return run


def plain_arguments(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Without what compiled code would tell apart although it computes the same: see `block_calls.plain`."""
    return plain(args), {name: plain(value) for name, value in kwargs.items()}


def repeated_layers(model: nn.Module) -> Sequence[nn.Module]:
    """The longest list of modules of one class: the model's decoder layers."""
    lists = [[*each] for each in model.modules() if isinstance(each, nn.ModuleList)]
    alike = [each for each in lists if each and len({type(layer) for layer in each}) == 1]
    return max(alike, key=len, default=[])


@contextmanager
def forwards_replaced(layers: Sequence[nn.Module], replaced: Sequence[Callable[..., Any]]) -> Iterator[None]:
    """The layers run these functions in place of their own forward in this block."""
    for layer, call in zip(layers, replaced, strict=True):
        layer.__dict__["forward"] = call
    try:
        yield
    finally:
        for layer in layers:
            del layer.__dict__["forward"]


@contextmanager
def from_the_cache_only() -> Iterator[None]:
    """What the cache on disk lacks is not compiled in this block, but raises `NotCompiledYet` in the compiler."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of torch itself
        import torch._inductor.compile_fx as compiler  # takes seconds

    def refuse(*_: Any, **__: Any) -> Any:
        raise NotCompiledYet("the compiler's cache does not hold its code")

    with mock.patch.object(compiler, "fx_codegen_and_compile", refuse):
        yield
