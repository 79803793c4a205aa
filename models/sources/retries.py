"""Decides whether a request is made again, and after what pause. In the pull's own process."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias, TypeVar

T = TypeVar("T")
Pause: TypeAlias = Callable[[float], None]  # time.sleep, or a fake

MAX_TRIES = 5  # failures in a row
MAX_UNREACHABLE = 2  # of those, without any answer: for requests that come before a download
MAX_WAIT_S = 120.0  # a server that asks to wait longer is not waited for
MAX_BACKOFF_S = 16.0


class Interrupted(Exception):
    """The server was busy or the connection broke; the same request may succeed later."""

    def __init__(self, message: str, *, status: int | None = None, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.status = status  # of HTTP; None: no answer came
        self.retry_after_s = retry_after_s  # what the server asks for; None: it does not say


class Retries:
    """Counts the failures of one request."""

    def __init__(self, pause: Pause, *, max_unreachable: int = MAX_TRIES) -> None:
        self._pause = pause
        self._max_unreachable = max_unreachable
        self._failures = 0

    def wait(self, error: Interrupted, *, progressed: bool = False) -> None:
        """Pauses before the next attempt, as long as the server asks for. Raises `error` when there should be none.

        progressed: the failed attempt brought new bytes, so the count begins anew.
        """
        self._failures = 0 if progressed else self._failures + 1
        if self._failures >= (self._max_unreachable if error.status is None else MAX_TRIES):
            raise error
        if error.retry_after_s is not None and error.retry_after_s > MAX_WAIT_S:
            raise error
        if error.retry_after_s is not None:
            self._pause(error.retry_after_s)
        elif self._failures:
            self._pause(min(2.0 ** (self._failures - 1), MAX_BACKOFF_S))


def with_retries(attempt: Callable[[], T], pause: Pause) -> T:
    """Calls `attempt` until it returns. Raises the `Interrupted` of the last one when it keeps failing."""
    retries = Retries(pause, max_unreachable=MAX_UNREACHABLE)
    while True:
        try:
            return attempt()
        except Interrupted as error:
            retries.wait(error)
