"""Counts the memory of the pictures of all chats that run or wait, as their models read them.

A small file may become hundreds of megabytes of pixels, which are kept until the chat has ended. Any thread.
"""

from __future__ import annotations

import threading
import weakref

from pipelines.chat_interface import PromptMedia
from server.errors import TooMany
from server.units import size

TOTAL_BYTES = 2 * 2**30  # about 12 pictures in the largest size that Qwen 2.5 VL reads


class MediaMemory:
    def __init__(self, total_bytes: int = TOTAL_BYTES) -> None:
        self._total_bytes = total_bytes
        self._used_bytes = 0
        self._lock = threading.Lock()  # pictures are forgotten on whatever thread holds them last

    @property
    def used_bytes(self) -> int:
        return self._used_bytes

    def take(self, media: PromptMedia) -> None:
        """Counts the pictures until nothing holds them any more. Raises `TooMany` when there is no room for them."""
        n_bytes = media.n_bytes
        with self._lock:
            if self._used_bytes and self._used_bytes + n_bytes > self._total_bytes:
                raise TooMany(
                    f"The pictures of all chats may take {size(self._total_bytes)} of memory together, and that is "
                    "taken at the moment. Try again in a few seconds.",
                    retry_after_s=5,
                )
            self._used_bytes += n_bytes
        weakref.finalize(media, self._give_back, n_bytes).atexit = False

    def _give_back(self, n_bytes: int) -> None:
        with self._lock:
            self._used_bytes -= n_bytes
