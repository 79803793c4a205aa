"""Keeps what was opened last for models, such as tokenizers: each serves one thread at a time. Any thread."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

T = TypeVar("T")

MAX_OPEN = 8


class _Place(Generic[T]):
    """Holds one opened value, made by the first thread that takes the lock."""

    def __init__(self) -> None:
        self.lock = threading.Lock()  # the state of a tokenizer changes while it is used
        self.opened: T | None = None


class KeptOpen(Generic[T]):
    def __init__(self, max_open: int = MAX_OPEN) -> None:
        self._max_open = max_open
        self._places: OrderedDict[Hashable, _Place[T]] = OrderedDict()  # used last stands last
        self._lock = threading.Lock()  # of `_places`

    @contextmanager
    def use(self, key: Hashable, open_: Callable[[], T]) -> Iterator[T]:
        """Opens it unless it is open. Blocks while another thread uses it. Raises what `open_` raises."""
        with self._lock:
            place = self._places.setdefault(key, _Place())
            self._places.move_to_end(key)
            while len(self._places) > self._max_open:
                self._places.popitem(last=False)
        with place.lock:
            if place.opened is None:
                place.opened = open_()
            yield place.opened
