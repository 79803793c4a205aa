"""The batch of a vision-language model: chats without pictures share forwards, each chat with pictures runs alone.

The forward that merges pictures into a prompt is the model's own, which transformers' continuous batching cannot run.
Both kinds take turns. Each has half of the KV cache. Device thread only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipelines import device
from pipelines.chat.decode.options import DecodeOptions
from pipelines.chat.decode.step_compiler import StepCompiler
from pipelines.chat.page_size import paged_cache_bytes
from pipelines.chat.paged_batch import BatchStep, PagedBatch
from pipelines.chat.sampling.sampling_hook import Sampler
from pipelines.chat.unbatched import SequentialBatch, sequential_cache_bytes
from pipelines.chat_interface import PromptMedia


class MixedBatch:
    def __init__(
        self,
        model: Any,
        *,
        cache_bytes: int,
        max_rows: int,
        sampler: Sampler,
        decode: DecodeOptions = DecodeOptions(),  # noqa: B008  # immutable
        compiler: StepCompiler | None = None,
    ) -> None:
        """Raises ValueError when half of `cache_bytes` holds no page."""
        half = cache_bytes // 2
        self._alone = SequentialBatch(model, cache_bytes=half, max_rows=max_rows, sampler=sampler)
        self._own_attention = _OwnAttention(model)
        self._shared = PagedBatch(
            model, cache_bytes=half, max_rows=max_rows, sampler=sampler, decode=decode, compiler=compiler
        )
        self._alone_is_next = False

    @property
    def cache_bytes(self) -> int:
        return self._shared.cache_bytes + self._alone.cache_bytes

    @property
    def notes(self) -> list[str]:
        return self._shared.notes

    def part_for(self, has_media: bool) -> PagedBatch | SequentialBatch:
        return self._alone if has_media else self._shared

    def has_room(self) -> bool:
        return self._shared.has_room()

    def add(
        self,
        sequence_id: str,
        prompt: list[int],
        owner: str = "",
        n_logprobs: int | None = None,
        media: PromptMedia | None = None,
    ) -> None:
        self.part_for(media is not None).add(sequence_id, prompt, owner, n_logprobs, media)

    def remove(self, sequence_id: str) -> None:
        (self._alone if sequence_id in self._alone else self._shared).remove(sequence_id)

    def step(self, n_decoding: int = 0, token_s: float | None = None) -> BatchStep:
        """Run one forward of either kind, in turns while there are both. Raises whatever the model raises."""
        if len(self._alone) and (self._alone_is_next or not len(self._shared)):
            self._alone_is_next = False
            with self._own_attention, device.on_stream(self._shared.stream):  # the sampler's tensors are used there
                return self._alone.step(n_decoding, token_s)
        self._alone_is_next = True
        return self._shared.step(n_decoding, token_s)

    def weights_moved(self) -> None:
        self._shared.weights_moved()

    def improve(self) -> None:
        self._shared.improve()

    def close(self) -> None:
        self._shared.close()


class _OwnAttention:
    """While it is entered, the model attends as it does alone: the attention of a paged batch runs nowhere else."""

    def __init__(self, model: Any) -> None:
        configs = {id(config): config for module in model.modules() if (config := getattr(module, "config", None))}
        self._configs: list[Any] = [c for c in configs.values() if hasattr(c, "_attn_implementation_internal")]
        self._paged: list[str | None] = []

    def __enter__(self) -> None:
        self._paged = [config._attn_implementation_internal for config in self._configs]
        for config, name in zip(self._configs, self._paged, strict=True):
            config._attn_implementation_internal = None if name is None else name.removeprefix("paged|")

    def __exit__(self, *_: object) -> None:
        for config, name in zip(self._configs, self._paged, strict=True):
            config._attn_implementation_internal = name


def mixed_cache_bytes(model: Any, lengths: Sequence[int], lengths_with_media: Sequence[int]) -> int:
    """Bytes of a cache that holds sequences of these lengths, in tokens, at once; no half of it is without a page."""
    return 2 * max(paged_cache_bytes(model, lengths or [1]), sequential_cache_bytes(model, lengths_with_media or [1]))
