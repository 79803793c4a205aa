"""Rotary embeddings with one set of frequencies for short texts and another for long ones: "longrope" (Phi 3 and 4).

transformers chooses the set by the longest text, or part of a text, in a forward, so that chats which share forwards
would get each other's. Here each token gets that of its own text. A text that outgrows the limit has keys of the short
set in the cache: `generate` reads it anew at that point, and so does `PagedBatch`. Device thread only.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationMixin
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from pipelines import device


class LongRope:
    def __init__(self, module: Any) -> None:
        """module: of transformers, which computes cosines and sines from its `inv_freq`."""
        self._module = module
        self._forward = inspect.unwrap(type(module).forward)  # without the choice by the longest text
        self.limit = int(module.config.rope_parameters["original_max_position_embeddings"])  # tokens of a short text
        long, _ = ROPE_INIT_FUNCTIONS["longrope"](module.config, "cpu", seq_len=self.limit + 1)
        self._long = long.to(module.inv_freq)
        self._short = module.original_inv_freq.detach().clone()

    def is_long(self, n_tokens: int) -> bool:
        return n_tokens > self.limit

    @property
    def is_served(self) -> bool:
        """Whether the module computes from these frequencies, and from nothing else that depends on the length."""
        position = torch.ones(1, 1, dtype=torch.long, device=self._long.device)
        short, long = (self._cosines(self._long, position, each)[0] for each in (self._short, self._long))
        return not torch.equal(short, long)

    @contextmanager
    def by_position(self) -> Iterator[None]:
        """In this block, each token of a forward is the last of its text."""
        with self._choosing(lambda positions: positions >= self.limit):
            yield

    @contextmanager
    def by_text(self, parts: Sequence[tuple[int, int]]) -> Iterator[None]:
        """parts: of the tokens of the forwards in this block, in order: (tokens of a text, its length)."""
        chosen = {self.is_long(length) for _, length in parts}
        if len(chosen) > 1:
            flags = [self.is_long(length) for n_tokens, length in parts for _ in range(n_tokens)]
            is_long = device.upload(torch.tensor([flags]), self._long.device)
        else:
            is_long = torch.full((1, 1), chosen == {True}, device=self._long.device)
        with self._choosing(lambda positions: is_long):
            yield

    @contextmanager
    def _choosing(self, is_long: Callable[[Tensor], Tensor]) -> Iterator[None]:
        """is_long: positions (1, T) → whether each is of a long text, (1, T) or (1, 1)."""

        @torch.compiler.disable  # type: ignore[untyped-decorator]  # torch carries no type here
        def forward(x: Tensor, position_ids: Tensor) -> tuple[Tensor, ...]:
            short, long = (self._cosines(x, position_ids, each) for each in (self._short, self._long))
            chosen = is_long(position_ids)[..., None]
            return tuple(torch.where(chosen, b, a) for a, b in zip(short, long, strict=True))

        self._module.__dict__["forward"] = forward
        try:
            yield
        finally:
            del self._module.__dict__["forward"]

    def _cosines(self, x: Tensor, position_ids: Tensor, frequencies: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines, as of the module's forward."""
        buffers = self._module._buffers
        before, buffers["inv_freq"] = buffers["inv_freq"], frequencies
        try:
            cosines: tuple[Tensor, Tensor] = self._forward(self._module, x, position_ids)
            return cosines
        finally:
            buffers["inv_freq"] = before


@torch.inference_mode()
def long_rope_of(model: Any) -> LongRope | None:
    """None for a model without longrope, or with one that cannot be served token by token.

    That is one whose `generate` does not read a text anew that outgrows the limit: such a class prepares its inputs as
    all do. Its keys in the cache would be a mixture.
    """
    modules = [each for each in model.modules() if getattr(each, "rope_type", None) == "longrope"]
    limit = getattr(model.config.get_text_config(), "original_max_position_embeddings", None)
    reads_anew = type(model).prepare_inputs_for_generation is not GenerationMixin.prepare_inputs_for_generation
    if len(modules) != 1 or not reads_anew or not {"inv_freq", "original_inv_freq"} <= modules[0]._buffers.keys():
        return None
    rope = LongRope(modules[0])
    return rope if rope.limit == limit and rope.is_served else None
