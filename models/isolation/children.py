"""A few children that take questions in turn; one that dies or hangs is replaced by another. Any thread."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from models.isolation.child import MAX_REPLY_BYTES, Child, Ended, TookTooLong

T = TypeVar("T")


class Closed(Exception):
    """No more questions are taken: the program is stopping."""


class Children:
    """As many children as threads ask at the same time. They are started at their first use."""

    def __init__(self, command: Callable[[], Sequence[str]], env: Sequence[str] = ()) -> None:
        """env: see `Child`."""
        self._command, self._env = command, env
        self._idle: queue.LifoQueue[Child] = queue.LifoQueue()  # the one used last is warm
        self._all: set[Child] = set()
        self._lock = threading.Lock()  # for `_all` and `_closed`, which several threads change
        self._closed = False

    def ask(self, question: object, wall_s: float, read: Callable[[Any], T], *, max_bytes: int = MAX_REPLY_BYTES) -> T:
        """As `Child.ask`, of one of the children. Blocks.

        Raises `Ended` and `TookTooLong` of a child that this question ended, `Closed`, and when none can be started
        OSError and what the command raises.
        """
        child = self._take()
        was_used = child.was_used
        try:
            return self._ask(child, question, wall_s, read, max_bytes)
        except TookTooLong:
            raise
        except Ended:
            if not was_used:
                raise
        # Perhaps it did not end because of this question.
        return self._ask(self._start(), question, wall_s, read, max_bytes)

    def _ask(self, child: Child, question: object, wall_s: float, read: Callable[[Any], T], max_bytes: int) -> T:
        try:
            answer = child.ask(question, wall_s, read, max_bytes=max_bytes)
        except Ended as ended:
            self._drop(child)
            if self._closed:
                raise Closed from ended
            raise
        except BaseException:
            self._drop(child)
            raise
        self._idle.put(child)
        return answer

    def close(self) -> None:
        """Ends the children at once. Whoever waits for an answer gets `Closed`. Idempotent."""
        with self._lock:
            self._closed = True
            children = list(self._all)
        for child in children:
            child.end()
        with suppress(queue.Empty):
            while True:  # the others are released by the threads that wait for them
                self._drop(self._idle.get_nowait())

    def _take(self) -> Child:
        with suppress(queue.Empty):
            while True:
                child = self._idle.get_nowait()
                if child.is_ready:
                    return child
                self._drop(child)  # such as one that was ended from outside while it was idle
        return self._start()

    def _start(self) -> Child:
        with self._lock:
            if self._closed:
                raise Closed
            child = Child(self._command(), self._env)
            self._all.add(child)
            return child

    def _drop(self, child: Child) -> None:
        child.end()
        child.release()
        with self._lock:
            self._all.discard(child)
