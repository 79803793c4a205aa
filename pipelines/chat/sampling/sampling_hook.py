"""Lets a sampler of ours choose the tokens of transformers' own steps. Device thread only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor
from transformers.generation.continuous_batching.cb_logits_processors import ContinuousBatchingLogitsProcessor

# Takes (ids of the sequences, their logits (N, V) float32); returns their next tokens, (N,) int64 on the same device:
# -1 for a row whose logits are not all numbers. May change the logits. Must not wait for the device.
Sampler: TypeAlias = Callable[[Sequence[str], Tensor], Tensor]


class SamplingHook(ContinuousBatchingLogitsProcessor):
    """Calls the sampler with the logits of the sequences that get a token. The only logits processor in the list."""

    supported_kwargs: dict[str, type] = {}  # noqa: RUF012 - declared so by the base class
    ignored_kwargs: tuple[str, ...] = ()

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler
        self._ids: tuple[str, ...] = ()
        self._tokens: Tensor | None = None

    def take_tokens(self) -> dict[str, int]:
        """The tokens that the sampler chose in the last forward. Waits for the device."""
        tokens, self._tokens = self._tokens, None
        return {} if tokens is None else dict(zip(self._ids, tokens.tolist(), strict=True))

    def fill_defaults(self, int32_tensor: Tensor) -> None:
        int32_tensor.zero_()

    def prepare_tensor_args(self, requests_with_new_token: Sequence[Any]) -> Tensor:
        self._ids = tuple(future.state.request_id for future in requests_with_new_token)
        return torch.zeros(len(self._ids), dtype=torch.int32)

    def __call__(self, scores: Tensor, tensor_arg: Tensor) -> Tensor:
        if self._ids:
            rows = scores[: len(self._ids)]  # later rows: prompts still being read
            self._tokens = self._sampler(self._ids, rows)
            rows.scatter_(1, self._tokens.clamp(min=0)[:, None], torch.inf)  # transformers takes the argmax
        return scores
