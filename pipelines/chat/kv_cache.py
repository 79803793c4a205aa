"""How large a chat model's KV cache is, and the making of batches that fill it. Device thread only.

The cache is one block of memory: to be of another size it is made anew, and who runs is read in again. It never becomes too
small for what it has to hold; out of memory it is made smaller, down to that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pipelines import device
from pipelines.chat.paged_batch import Choose, PagedBatch, cache_bytes_for
from pipelines.chat.unbatched import Batch, PlainBatch, plain_bytes_for
from pipelines.interface import Merging


class KVCache:
    def __init__(self, make: Callable[[int], Batch], cache_bytes: int) -> None:
        """make: bytes → batch; raises ValueError where they hold no page."""
        self._make = make
        self._target_bytes = cache_bytes
        self.batch: Batch | None = make(cache_bytes)

    @property
    def cache_bytes(self) -> int:
        return 0 if self.batch is None else self.batch.cache_bytes

    def open(self, least_bytes: int) -> Batch:
        """The batch there is, or a new one of at least `least_bytes`. Out of memory passes through when not even that fits."""
        if self.batch is not None:
            return self.batch
        n_bytes = max(self._target_bytes, least_bytes)
        while self.batch is None:
            try:
                self.batch = self._make(n_bytes)
            except Exception as error:
                if not device.is_out_of_memory(error) or n_bytes <= least_bytes:
                    raise
            if self.batch is None:  # outside the except block: what the failed one held is free
                device.release_cache()
                n_bytes = max(n_bytes // 2, least_bytes)
        return self.batch

    def give_back(self, target_bytes: int | None = None) -> None:
        """Free the cache. target_bytes: what the next one may take, if it is not to be as before."""
        self.batch = None
        if target_bytes is not None:
            self._target_bytes = target_bytes
        device.release_cache()

    def close(self) -> None:
        """Let go of the batch, and of the model that it is made with."""
        self.batch = None
        del self._make

    def halve(self) -> None:
        self.give_back(self._target_bytes // 2)


def make_batch(model: Any, max_rows: int, choose: Choose, merging: Merging, cache_bytes: int) -> Batch:
    """Raises ValueError where `cache_bytes` hold no page."""
    batch_class = PlainBatch if merging == "off" else PagedBatch
    return batch_class(model, cache_bytes=cache_bytes, max_rows=max_rows, choose=choose)


def bytes_for(model: Any, lengths: Sequence[int], merging: Merging) -> int:
    """Of a cache that holds sequences of so many tokens."""
    return (plain_bytes_for if merging == "off" else cache_bytes_for)(model, lengths)
