"""Runs sequences of a model that continuous batching cannot take: each has its own KV cache, and one advances per step.

`SequentialBatch` has the same methods as `PagedBatch`, so that the chat lane treats both alike. Device thread only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch

from pipelines.chat.paged_batch import BatchStep, PagedBatch, Sampler

PAGE_TOKENS = 32  # memory for the caches is counted in pages of this many tokens


@dataclass(slots=True)
class SequenceState:
    unread: list[int]  # tokens that the model has not read
    past: dict[str, Any]  # outputs that the next forward takes: a KV cache, the state of recurrent layers, or both


class SequentialBatch:
    def __init__(self, model: Any, *, cache_bytes: int, max_rows: int, sampler: Sampler) -> None:
        self._model, self._sampler = model, sampler
        self._sequences: dict[str, SequenceState] = {}
        page_bytes = PAGE_TOKENS * _token_bytes(model)
        self.n_pages = cache_bytes // page_bytes
        if self.n_pages < 1:
            raise ValueError(f"{cache_bytes:,} bytes hold no page of a KV cache; {page_bytes:,} hold one")
        self.max_length = self.n_pages * PAGE_TOKENS
        self.cache_bytes = self.n_pages * page_bytes

    def pages_for(self, n_tokens: int) -> int:
        return math.ceil(n_tokens / PAGE_TOKENS)

    def add(self, sequence_id: str, prompt: list[int], owner: str = "") -> None:
        self._sequences[sequence_id] = SequenceState(list(prompt), {})

    def remove(self, sequence_id: str) -> None:
        self._sequences.pop(sequence_id, None)

    def step(self, n_decoding: int = 0, token_s: float | None = None) -> BatchStep:
        """Run one forward for the sequence that has waited longest. Raises whatever the model raises."""
        if not self._sequences:
            return BatchStep("decode", (), {})
        sequence_id = next(iter(self._sequences))
        sequence = self._sequences.pop(sequence_id)
        unread = torch.tensor([sequence.unread], device=self._model.device)
        output = self._model(unread, use_cache=True, **sequence.past)
        self._sequences[sequence_id] = sequence  # last in the order now
        logits = output.logits[:, -1].float()
        self._sampler((sequence_id,), logits)
        token = int(logits.argmax(-1))  # waits for the device: the reply's next token
        n_read = len(sequence.unread)
        stage: Literal["prefill", "decode"] = "prefill" if n_read > 1 else "decode"
        sequence.past = {
            name: output[name] for name in ("past_key_values", "cache_params") if output.get(name) is not None
        }
        sequence.unread = [token]
        return BatchStep(stage, (sequence_id,), {sequence_id: token}, n_read)


Batch: TypeAlias = PagedBatch | SequentialBatch


def sequential_cache_bytes(model: Any, lengths: Sequence[int]) -> int:
    """Bytes that the caches of sequences of these lengths, in tokens, take at most."""
    return sum(math.ceil(length / PAGE_TOKENS) for length in lengths) * PAGE_TOKENS * _token_bytes(model)


def _token_bytes(model: Any) -> int:
    """Bytes of one token's keys and values in all layers. An upper bound: a sliding window or a state takes less."""
    config = model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 2 * int(config.num_hidden_layers) * int(heads) * int(head_dim) * int(model.dtype.itemsize)
