"""Bounds how many worker threads the requests for one model hold, so that a slow model leaves threads to the others.

Event loop only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from weakref import WeakValueDictionary


class ModelTurns:
    def __init__(self, at_once: int) -> None:
        """at_once: requests of one model."""
        self._at_once = at_once
        self._turns: WeakValueDictionary[Hashable, asyncio.Semaphore] = WeakValueDictionary()

    def of(self, model: Hashable) -> asyncio.Semaphore:
        """Enter it for as long as a worker thread works. Those that wait are served in turn."""
        found = self._turns.get(model)
        if found is None:
            found = self._turns[model] = asyncio.Semaphore(self._at_once)
        return found
