"""Runs sequences of a model that continuous batching cannot take: each has its own KV cache, and one advances per step.

`SequentialBatch` has the same methods as `PagedBatch`, so that the chat lane treats both alike. Device thread only.
"""

from __future__ import annotations

import math
import traceback
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from pipelines import device
from pipelines.chat.kv_size import PAGE_TOKENS, STATE_TOKENS, has_attention, state_bytes, token_bytes
from pipelines.chat.lone_sequences import Sequence, sequence_of
from pipelines.chat.paged_batch import BatchStep
from pipelines.chat.prompt_scores import PromptScorer
from pipelines.chat.sampling.sampling_hook import Sampler
from pipelines.chat_interface import PromptMedia


class SequentialBatch:
    def __init__(self, model: Any, *, cache_bytes: int, max_rows: int, sampler: Sampler) -> None:
        self._model, self._sampler = model, sampler
        self._sequences: dict[str, Sequence] = {}
        self._scorer = PromptScorer()
        page = _page_of(model)
        self._page_tokens = page.tokens
        self.n_pages = cache_bytes // page.n_bytes
        if self.n_pages < 1:
            raise ValueError(f"{cache_bytes:,} bytes hold no page of a KV cache; {page.n_bytes:,} hold one")
        self.max_length = STATE_TOKENS if page.tokens == STATE_TOKENS else self.n_pages * page.tokens
        self.cache_bytes = self.n_pages * page.n_bytes

    def pages_for(self, n_tokens: int) -> int:
        return math.ceil(n_tokens / self._page_tokens)

    def has_room(self) -> bool:
        """Always: every sequence has a cache of its own, which grows."""
        return True

    def __len__(self) -> int:
        return len(self._sequences)

    def __contains__(self, sequence_id: str) -> bool:
        return sequence_id in self._sequences

    def part_for(self, has_media: bool) -> SequentialBatch:
        """The part of the batch, with pages of its own, that runs sequences with pictures or without."""
        return self

    @property
    def notes(self) -> list[str]:
        return []

    def weights_moved(self) -> None:
        """Nothing holds their addresses."""

    def improve(self) -> None:
        """Its steps are as fast as they get."""

    def close(self) -> None:
        """No forward is launched ahead."""

    def add(
        self,
        sequence_id: str,
        prompt: list[int],
        owner: str = "",
        n_logprobs: int | None = None,
        media: PromptMedia | None = None,
    ) -> None:
        scored = n_logprobs is not None
        self._sequences[sequence_id] = sequence_of(self._model, prompt, media, scored=scored)
        if n_logprobs is not None:
            self._scorer.add(sequence_id, prompt, n_logprobs)

    def remove(self, sequence_id: str) -> None:
        self._sequences.pop(sequence_id, None)
        self._scorer.remove(sequence_id)

    def step(self, n_decoding: int = 0, token_s: float | None = None) -> BatchStep:
        """Run one forward for the sequence that has waited longest. Raises what is not that sequence's own fault."""
        if not self._sequences:
            return BatchStep("decode", (), {})
        sequence_id = next(iter(self._sequences))
        sequence = self._sequences.pop(sequence_id)
        n_read = sequence.n_unread
        try:
            logits = sequence.read()
        except Exception as error:  # the library may raise anything, about a picture too
            if device.is_fatal(error) or device.is_out_of_memory(error):
                raise
            detail = "".join(traceback.format_exception(error))
            return BatchStep("prefill", (), {}, failed={sequence_id: detail})
        self._sequences[sequence_id] = sequence  # last in the order now
        scores = self._scorer.forward([(sequence_id, 0, n_read)])
        if scores is not None:
            scores.compute(logits[0, : len(scores.rows)])  # all but the last; its prompt has been read whole
            self._scorer.remove(sequence_id)
        token = int(self._sampler((sequence_id,), logits[:, -1].float()))  # waits for the device: the next token
        sequence.append(token)
        stage: Literal["prefill", "decode"] = "prefill" if n_read > 1 else "decode"
        scored = {} if scores is None else scores.take()
        return BatchStep(stage, (sequence_id,), {sequence_id: token}, n_read, scored)


def sequential_cache_bytes(model: Any, lengths: Iterable[int]) -> int:
    """Bytes that the caches of sequences of these lengths, in tokens, take at most."""
    page = _page_of(model)
    return sum(math.ceil(length / page.tokens) for length in lengths) * page.n_bytes


@dataclass(frozen=True, slots=True)
class _Page:
    """The unit in which memory for the caches is counted."""

    tokens: int
    n_bytes: int


def _page_of(model: Any) -> _Page:
    if has_attention(model.config.get_text_config()):
        return _Page(PAGE_TOKENS, PAGE_TOKENS * token_bytes(model))
    return _Page(STATE_TOKENS, state_bytes(model))
