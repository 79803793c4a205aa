"""Admits waiting chats to the batch as long as the KV cache can hold each to its last token. Device thread only.

Chats are admitted strictly in order of arrival: one that does not fit yet holds back those behind it, so none starves.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipelines import device
from pipelines.chat.kv_cache import KVCache, cache_bytes_for
from pipelines.chat.queue import ChatQueue
from pipelines.chat.sequence import ChatSequence
from pipelines.chat.unbatched import Batch
from pipelines.interface import Merging


class Admission:
    """Moves chats between the queue and the batch that holds the KV cache."""

    def __init__(self, model: Any, queue: ChatQueue, kv_cache: KVCache, merging: Merging) -> None:
        self._model = model
        self._queue = queue
        self._kv_cache = kv_cache
        self._merging: Merging = merging

    def admit(self, limit: int) -> tuple[Batch, ChatSequence | None]:
        """Admit chats until `limit` run. Returns the batch, and a waiting chat that no cache on this device can hold.

        Raises any error that making the cache raises; no chat runs then.
        """
        queue = self._queue
        batch = self._kv_cache.batch or self._kv_cache.allocate(self._min_cache_bytes())
        n_free = batch.n_pages - sum(chat.n_pages for chat in queue.running.values())
        while queue.waiting and len(queue.running) < limit:
            chat = queue.waiting[0]
            chat.n_pages = batch.pages_for(chat.max_length)
            if chat.n_pages > n_free and not queue.running:  # the cache was made smaller since the chat arrived
                self._kv_cache.free()
                batch = self._kv_cache.allocate(self._min_cache_bytes())
                n_free = batch.n_pages
                if chat.n_pages > n_free:
                    return batch, chat
            if chat.n_pages > n_free:
                break
            n_free -= chat.n_pages
            queue.running[chat.id] = queue.waiting.popleft()
            batch.add(chat.id, chat.prompt + chat.tokens, chat.request.owner)
        return batch, None

    def remove_canceled(self) -> Sequence[str]:
        """Remove canceled chats from the queue and the batch; returns their ids."""
        canceled, ran = self._queue.take_canceled()
        if self._kv_cache.batch is not None and not _removed(self._kv_cache.batch, ran):
            self._queue.put_back()
            self._kv_cache.free()
        return canceled

    def resize_cache(self, n_bytes: int) -> None:
        """Make the KV cache again, with at least what the running chats need; see `ChatLane.resize_cache`."""
        n_bytes = max(n_bytes, self._min_cache_bytes() if self._queue.running else 0)
        self._queue.put_back()
        self._kv_cache.free(n_bytes)
        if n_bytes:
            try:
                self._kv_cache.allocate(self._min_cache_bytes())
            except Exception as error:  # if it comes again in the next step, the chats fail with it
                if device.is_fatal(error):
                    raise

    def _min_cache_bytes(self) -> int:
        """Bytes of a cache that holds the running chats, or the first that waits, to their last tokens."""
        return cache_bytes_for(self._model, [chat.max_length for chat in self._queue.next_chats()], self._merging)


def _removed(batch: Batch, ids: Sequence[str]) -> bool:
    """Remove sequences from the batch. Returns False when the batch failed to, and so must not be used any more."""
    try:
        for request_id in ids:
            batch.remove(request_id)
    except Exception as error:  # the library may raise anything
        if device.is_fatal(error):
            raise
        return False
    return True
