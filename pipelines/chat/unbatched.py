"""Sequences of a model that continuous batching cannot take: each has its own KV cache, and one of them moves at each step.

The same few methods as `PagedBatch`, so the chat lane, its cancels and its sampling do not know the difference. Device thread only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch

from pipelines.chat.paged_batch import Choose, PagedBatch, Stepped

UNIT_TOKENS = 32  # what the room for caches is counted in


@dataclass(slots=True)
class PlainSequence:
    """past: whatever the model hands back to be given again: a KV cache, the state of a recurrent layer, or both."""

    unread: list[int]
    past: dict[str, Any]


class PlainBatch:
    def __init__(self, model: Any, *, cache_bytes: int, max_rows: int, choose: Choose) -> None:
        self._model, self._choose = model, choose
        self._sequences: dict[str, PlainSequence] = {}
        unit_bytes = UNIT_TOKENS * _token_bytes(model)
        self.n_units = cache_bytes // unit_bytes
        if self.n_units < 1:
            raise ValueError(f"{cache_bytes:,} bytes hold no cache; {unit_bytes:,} hold one")
        self.longest_tokens = self.n_units * UNIT_TOKENS
        self.cache_bytes = self.n_units * unit_bytes

    def units(self, n_tokens: int) -> int:
        return math.ceil(n_tokens / UNIT_TOKENS)

    def add(self, sequence_id: str, prompt: list[int], owner: str = "") -> None:
        self._sequences[sequence_id] = PlainSequence(list(prompt), {})

    def remove(self, sequence_id: str) -> None:
        self._sequences.pop(sequence_id, None)

    def step(self, n_decoding: int = 0, token_s: float | None = None) -> Stepped:
        """One forward of the sequence that has waited longest. Raises whatever the model raises."""
        if not self._sequences:
            return Stepped("decode", (), {})
        sequence_id = next(iter(self._sequences))
        sequence = self._sequences.pop(sequence_id)
        unread = torch.tensor([sequence.unread], device=self._model.device)
        output = self._model(unread, use_cache=True, **sequence.past)
        self._sequences[sequence_id] = sequence  # last in line now
        logits = output.logits[:, -1].float()
        self._choose((sequence_id,), logits)
        token = int(logits.argmax(-1))  # waits for the device: the reply's next token
        n_read = len(sequence.unread)
        shape: Literal["prefill", "decode"] = "prefill" if n_read > 1 else "decode"
        sequence.past = {
            name: output[name] for name in ("past_key_values", "cache_params") if output.get(name) is not None
        }
        sequence.unread = [token]
        return Stepped(shape, (sequence_id,), {sequence_id: token}, n_read)


Batch: TypeAlias = PagedBatch | PlainBatch


def plain_bytes_for(model: Any, lengths: Sequence[int]) -> int:
    """Bytes of a room that holds sequences of these lengths."""
    return sum(math.ceil(length / UNIT_TOKENS) for length in lengths) * UNIT_TOKENS * _token_bytes(model)


def _token_bytes(model: Any) -> int:
    """Keys and values of a token in all layers: an upper bound, since a window or a state takes less."""
    config = model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 2 * int(config.num_hidden_layers) * int(heads) * int(head_dim) * int(model.dtype.itemsize)
