"""Gives each task its own state of torch's default generators, as if the task ran alone. Device thread only.

Stock code that writes a prompt or a plan with a language model (GLM-Image, Ernie's prompt rewriter) samples its tokens
from the default generators: transformers' `generate` takes no other. Without this, interleaved tasks would draw from
one shared sequence of random numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


class RngState:
    """The generators' state of one task, saved while other code runs."""

    def __init__(self, seed: int, device_name: str = "cpu") -> None:
        self._seed = seed
        self._generators = default_generators(torch.device(device_name))
        self._saved: list[torch.Tensor] = []  # states when the task last stopped; empty before it first runs

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Around code of the task: torch's default generators continue where it stopped, and are restored after it."""
        outside = [generator.get_state() for generator in self._generators]
        for i, generator in enumerate(self._generators):
            if self._saved:
                generator.set_state(self._saved[i])
            else:
                generator.manual_seed(self._seed)
        try:
            yield
        finally:
            self._saved = [generator.get_state() for generator in self._generators]
            for generator, state in zip(self._generators, outside, strict=True):
                generator.set_state(state)


def default_generators(device: torch.device) -> list[torch.Generator]:
    """The generators that code on `device` draws from unless it is given one."""
    on_device = [torch.cuda.default_generators[device.index or 0]] if device.type == "cuda" else []
    return [torch.default_generator, *on_device]
