"""Random numbers of torch's own generators for one task, as if it ran alone. Device thread only.

Stock code that writes a prompt or a plan with a language model (GLM-Image, Ernie's rewriter) draws its tokens from them: transformers'
`generate` takes no other. Tasks that take turns would draw from one row of numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


class RngState:
    def __init__(self, seed: int, device_name: str = "cpu") -> None:
        self._seed = seed
        self._generators = generators(torch.device(device_name))
        self._left: list[torch.Tensor] = []  # how the task left them

    @contextmanager
    def thrown(self) -> Iterator[None]:
        """Inside, torch's own generators are this task's, going on where it was."""
        others = [generator.get_state() for generator in self._generators]
        for i, generator in enumerate(self._generators):
            if self._left:
                generator.set_state(self._left[i])
            else:
                generator.manual_seed(self._seed)
        try:
            yield
        finally:
            self._left = [generator.get_state() for generator in self._generators]
            for generator, state in zip(self._generators, others, strict=True):
                generator.set_state(state)


def generators(place: torch.device) -> list[torch.Generator]:
    """Torch's own that code on `place` draws from."""
    on_device = [torch.cuda.default_generators[place.index or 0]] if place.type == "cuda" else []
    return [torch.default_generator, *on_device]
