"""Decides which chats run: those whose next tokens fit into the KV cache. Device thread only.

A reply may become as long as the context, but most end long before. So a chat does not reserve memory to its last token
but takes it as it grows, and begins when all that run, and it, have room for `RESERVE_TOKENS` more. When the cache is
full nevertheless, the chat that arrived last makes room: it waits again with its reply so far, which is read in again.

Chats are admitted in order of arrival: one that does not fit yet holds back those behind it, so none starves. Only
where chats with pictures have a part of the cache of their own, those of the other part may go before it.
The oldest is never put back for another and so always comes to its end. One that was put back begins again only with
room for `RESERVE_TOKENS` again, so it is read in at most once for so many new tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pipelines import device
from pipelines.chat.kv_cache import Batch, BatchKind, BatchPart, KVCache, cache_bytes_for
from pipelines.chat.queue import ChatQueue, has_media, length_of
from pipelines.chat.sequence import ChatSequence

KINDS = (False, True)  # of chats: without pictures and with them
RESERVE_TOKENS = 256  # a usual reply; with more, fewer chats would share a small cache


class Admission:
    """Moves chats between the queue and the batch that holds the KV cache."""

    def __init__(self, model: Any, queue: ChatQueue, kv_cache: KVCache, kind: BatchKind) -> None:
        self._model = model
        self._queue = queue
        self._kv_cache = kv_cache
        self._kind: BatchKind = kind

    def admit(self, limit: int) -> tuple[Batch, ChatSequence | None]:
        """Make room for the next tokens of the running chats, then admit others until `limit` run.

        Returns the batch, and a waiting chat that no cache on this device can hold. Raises any error that making the
        cache raises; no chat runs then.
        """
        queue = self._queue
        self._put_back_what_outgrows_the_cache()
        batch = self._kv_cache.batch or self._allocate()
        queue.full_for = frozenset()
        if not queue.waiting:
            return batch, None
        place = 0  # of the chat that is looked at, behind those that found no room
        while place < len(queue.waiting) and len(queue.running) < limit:
            chat = queue.waiting[place]
            if has_media(chat) in queue.full_for:
                place += 1
                continue
            part = batch.part_for(has_media(chat))
            chat.n_pages = part.pages_for(_with_reserve(chat))
            if chat.n_pages > part.n_pages and not queue.running:  # the cache is smaller than when the chat arrived
                self._kv_cache.free()
                batch = self._allocate()
                part = batch.part_for(has_media(chat))
                chat.n_pages = part.pages_for(_with_reserve(chat))
                if chat.n_pages > part.n_pages:
                    return batch, chat
            if chat.n_pages > part.n_pages:  # it needs a new cache, which is made when no chat runs
                queue.full_for = frozenset(KINDS)
                break
            if chat.n_pages > part.n_pages - _pages(batch, part, queue, _with_reserve):
                queue.full_for |= {media for media in KINDS if batch.part_for(media) is part}
                if len(queue.full_for) == len(KINDS):
                    break
                continue
            queue.run(place)
            tokens, media = chat.prompt + chat.tokens, chat.request.prompt.media
            batch.add(chat.id, tokens, chat.request.owner, chat.n_prompt_logprobs, media)
        return batch, None

    def _put_back_what_outgrows_the_cache(self) -> None:
        """Put back the newest chats of a part until all that still run get the pages that their next tokens need."""
        batch, running = self._kv_cache.batch, self._queue.running
        while batch is not None and running:
            parts = (batch.part_for(False), batch.part_for(True))
            outgrown = next(
                (part for part in parts if _pages(batch, part, self._queue, length_of) > part.n_pages), None
            )
            if outgrown is None and not batch.has_room():
                outgrown = parts[0]  # that of the chats without pictures, which alone has kinds of layers
            if outgrown is None:
                return
            newest = [chat for chat in running.values() if batch.part_for(has_media(chat)) is outgrown][-1]
            self._remove([self._queue.put_back_one(newest).id])
            batch = self._kv_cache.batch

    def remove_canceled(self) -> Sequence[str]:
        """Remove canceled chats from the queue and the batch; returns their ids."""
        canceled, ran = self._queue.take_canceled()
        self._remove(ran)
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

    def _allocate(self) -> Batch:
        """Make the cache; one that a single chat outgrew becomes twice as long as the chat, not to be outgrown soon."""
        grown = self._bytes_for(_doubled)
        return self._kv_cache.allocate(self._min_cache_bytes(), grown)

    def _min_cache_bytes(self) -> int:
        """Bytes of a cache in which the running chats, or the first that waits, can go on."""
        return self._bytes_for(_with_reserve)

    def _bytes_for(self, length: Callable[[ChatSequence], int]) -> int:
        lengths = [(length(chat), has_media(chat)) for chat in self._queue.next_chats()]
        return cache_bytes_for(self._model, lengths, self._kind)

    def _remove(self, ids: Sequence[str]) -> None:
        """Remove sequences from the batch. If that fails, the batch must not be used any more: all chats begin anew."""
        batch = self._kv_cache.batch
        if batch is None:
            return
        failed = False
        try:
            for request_id in ids:
                batch.remove(request_id)
        except Exception as error:  # the library may raise anything
            if device.is_fatal(error):
                raise
            failed = True
        if failed:  # outside the `except` block: what the failed frames held is free
            self._queue.put_back()
            self._kv_cache.free()


def _pages(batch: Batch, part: BatchPart, queue: ChatQueue, length: Callable[[ChatSequence], int]) -> int:
    """Pages that the running chats of a part of the batch take at these lengths."""
    lengths = [length(chat) for chat in queue.running.values() if batch.part_for(has_media(chat)) is part]
    return sum(map(part.pages_for, lengths))


def _with_reserve(chat: ChatSequence) -> int:
    """The length that a chat must have room for to begin, or to let another begin."""
    return min(chat.max_length, length_of(chat) + RESERVE_TOKENS)


def _doubled(chat: ChatSequence) -> int:
    return min(chat.max_length, 2 * length_of(chat) + RESERVE_TOKENS)
