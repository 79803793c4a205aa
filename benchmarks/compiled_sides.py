"""A second pipeline over the same weights, and compiled blocks that can be switched on and off.

So that eager and compiled, in the lane and called directly, are measured in turns in one process, with one model in
memory.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn


def twin(pipeline: Any) -> Any:
    """A stock pipeline with modules and a noise scheduler of its own, whose tensors are those of `pipeline`.

    Make it before a lane wraps the modules of `pipeline`: copies keep wrapped entry points.
    """
    made = copy.copy(pipeline)
    modules = {name: part for name, part in pipeline.components.items() if isinstance(part, nn.Module)}
    tensors = {id(each): each for part in modules.values() for each in (*part.parameters(), *part.buffers())}
    for name, part in modules.items():
        setattr(made, name, copy.deepcopy(part, dict(tensors)))
    made.scheduler = copy.deepcopy(pipeline.scheduler)
    return made


class StockCompile:
    """The blocks of a denoiser compiled as diffusers' documentation says, or all of it where it names no blocks."""

    def __init__(self, denoiser: nn.Module) -> None:
        if getattr(denoiser, "_repeated_blocks", None):
            denoiser.compile_repeated_blocks(fullgraph=True, dynamic=True)  # type: ignore[operator]  # of diffusers
        else:
            denoiser.compile(dynamic=True)
        self._compiled = [(each, each._compiled_call_impl) for each in denoiser.modules() if each._compiled_call_impl]
        self.blocks = len(self._compiled)
        self.switch(False)

    def switch(self, on: bool) -> None:
        for module, call in self._compiled:
            module._compiled_call_impl = call if on else None  # what `nn.Module.compile` sets


class LaneCompile:
    """The same for a lane: the hooks at which a forward can be preempted stay outside of the compiled code."""

    def __init__(self, denoiser: nn.Module) -> None:
        names = getattr(denoiser, "_repeated_blocks", None) or ()
        blocks = [each for each in denoiser.modules() if type(each).__name__ in names]
        self._compiled = [(block, torch.compile(block.forward, fullgraph=True, dynamic=True)) for block in blocks]
        self.blocks = len(self._compiled)

    def switch(self, on: bool) -> None:
        for block, forward in self._compiled:
            if on:
                block.forward = forward
            else:
                vars(block).pop("forward", None)


def graphs_compiled() -> int:
    """Graphs that dynamo has made in this process so far."""
    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])
