"""A second pipeline over the same weights, and compiled blocks that can be switched on and off.

So that eager and compiled, in the lane and called directly, are measured in turns in one process, with one model in
memory.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from pipelines.diffusion.compiled_blocks import CompiledBlocks
from pipelines.diffusion.lane import DiffusionLane


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


WARM_UPS = 3  # jobs until calls run compiled: one describes them, one compiles them, one is for good measure


def compile_lane(lane: DiffusionLane, denoiser: nn.Module) -> None:
    """Lets the lane compile its blocks as the server does, but between jobs instead of in a process beside them."""
    lane.compile_blocks(CompiledBlocks([denoiser], prepare=None))


def graphs_compiled() -> int:
    """Graphs that dynamo has made in this process so far."""
    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])
