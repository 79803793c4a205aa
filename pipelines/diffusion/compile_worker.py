"""Compiles blocks in a process of its own: see `pipelines/compile_process.py`, and `compiled_blocks.Preparation`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from pipelines import device
from pipelines.block_calls import BlockCall, materialize
from pipelines.compile_process import CompileProcess
from pipelines.diffusion.attention_choice import register_backends_of
from pipelines.diffusion.block_compiler import compiling, counting


class NothingCompiled(Exception):
    """The compiler left the call to Python."""


@dataclass(frozen=True, slots=True)
class BlockTask:
    """A call of a block, which is filled with zeros and run once."""

    call: BlockCall

    def compile(self, target: torch.device) -> None:
        block, args, kwargs = materialize(self.call, target)
        register_backends_of(block)
        forward: Any = compiling(block.forward, "inductor")
        forward(*args, **kwargs)
        device.finish(str(target))
        if not counting("inductor").n_graphs:
            raise NothingCompiled("nothing was compiled")


class Worker(CompileProcess):
    def __init__(self, calls: Sequence[BlockCall], device_name: str) -> None:
        """Raises OSError when the process cannot be started."""
        super().__init__([BlockTask(call) for call in calls], device_name)
