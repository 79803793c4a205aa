"""Owns a chat model's KV cache: makes the batch that holds the cache, and makes it smaller when memory runs out.

Device thread only. The cache is one block of memory. To change its size it is freed and made again, and the running
chats are read in again. It never becomes too small for what it has to hold.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias

from pipelines import device
from pipelines.chat.decode.options import DecodeOptions
from pipelines.chat.decode.step_compiler import StepCompiler
from pipelines.chat.mixed_batch import MixedBatch, mixed_cache_bytes
from pipelines.chat.page_size import paged_cache_bytes
from pipelines.chat.paged_batch import PagedBatch
from pipelines.chat.sampling.sampling_hook import Sampler
from pipelines.chat.unbatched import SequentialBatch, sequential_cache_bytes
from pipelines.interface import Merging

BatchPart: TypeAlias = PagedBatch | SequentialBatch  # has pages of its own
Batch: TypeAlias = BatchPart | MixedBatch
BatchKind: TypeAlias = Literal["paged", "sequential", "mixed"]


class KVCache:
    def __init__(self, make_batch: Callable[[int], Batch], cache_bytes: int) -> None:
        """make_batch: bytes → batch; raises ValueError when they hold no page."""
        self._make_batch = make_batch
        self._target_bytes = cache_bytes
        self.batch: Batch | None = make_batch(cache_bytes)

    @property
    def cache_bytes(self) -> int:
        return 0 if self.batch is None else self.batch.cache_bytes

    def allocate(self, min_bytes: int, grown_bytes: int = 0) -> Batch:
        """Return the present batch, or make one of the target size; out of memory, one of half the size, and so on.

        grown_bytes: the size instead, when the target size is less than `min_bytes`. Raises an out-of-memory error when
        not even `min_bytes` fit, and any other error at once.
        """
        if self.batch is not None:
            return self.batch
        n_bytes = self._target_bytes if self._target_bytes >= min_bytes else max(min_bytes, grown_bytes)
        while self.batch is None:
            try:
                self.batch = self._make_batch(n_bytes)
            except Exception as error:
                if not device.is_out_of_memory(error) or n_bytes <= min_bytes:
                    raise
            if self.batch is None:  # outside the `except` block: what the failed batch held is free
                device.release_cache()
                n_bytes = max(n_bytes // 2, min_bytes)
        return self.batch

    def free(self, target_bytes: int | None = None) -> None:
        """Free the cache. target_bytes: size of the next one; None: as before."""
        self._drop_batch()
        if target_bytes is not None:
            self._target_bytes = target_bytes
        device.release_cache()

    def halve(self) -> None:
        """Free the cache; the next one is half as large."""
        self.free(self._target_bytes // 2)

    def close(self) -> None:
        """Let go of the batch, and of the model that batches are made with."""
        self._drop_batch()
        del self._make_batch

    def _drop_batch(self) -> None:
        batch, self.batch = self.batch, None
        if batch is not None:
            batch.close()


def batch_kind(merging: Merging, takes_images: bool) -> BatchKind:
    if merging == "off":
        return "sequential"
    return "mixed" if takes_images else "paged"


def make_batch(
    model: Any,
    max_rows: int,
    sampler: Sampler,
    kind: BatchKind,
    cache_bytes: int,
    decode: DecodeOptions = DecodeOptions(),  # noqa: B008  # immutable
    compiler: StepCompiler | None = None,
) -> Batch:
    """Raises ValueError when `cache_bytes` hold no page."""
    if kind == "sequential":
        return SequentialBatch(model, cache_bytes=cache_bytes, max_rows=max_rows, sampler=sampler)
    made_by = MixedBatch if kind == "mixed" else PagedBatch
    return made_by(model, cache_bytes=cache_bytes, max_rows=max_rows, sampler=sampler, decode=decode, compiler=compiler)


def cache_bytes_for(model: Any, lengths: Sequence[tuple[int, bool]], kind: BatchKind) -> int:
    """Bytes of a cache that holds these sequences at once. lengths: tokens of each, and whether it has pictures."""
    if kind == "mixed":
        parts = [[length for length, has_media in lengths if has_media is media] for media in (False, True)]
        return mixed_cache_bytes(model, *parts)
    of_kind = sequential_cache_bytes if kind == "sequential" else paged_cache_bytes
    return of_kind(model, [length for length, _ in lengths])
