"""The steps of a call. A call is a generator that yields the next step and receives its outcome, so that blocking and
asyncio clients can execute the same calls. Nothing here does network I/O.

`send` decides about retries. It repeats a request that did not reach the server or is safe to repeat, and one that the
server refused for a moment, with 429 or 502 and a short Retry-After: the server has not accepted anything then.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeAlias, TypeVar

import httpx
from pydantic import ValidationError

from server.client.errors import NotReachable, NotThisServer, Refused, refusal
from server.client.replies import Reply

T = TypeVar("T")
R = TypeVar("R", bound=Reply)

CONNECT_S = 5.0
FIRST_PAUSE_S = 0.25  # doubles with each retry
LONGEST_PAUSE_S = 10.0  # a longer Retry-After is raised as an error at once


@dataclass(frozen=True, slots=True)
class Send:
    """Sends a request. The outcome is the `httpx.Response`; with `stream`, the body of a success follows by `Read`."""

    method: str
    path: str
    json: Mapping[str, Any] | None = None
    content: bytes | None = None  # of a file, instead of JSON
    params: Mapping[str, str | int] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    stream: bool = False
    repeatable: bool = True  # repeating the request has no further effect on the server
    read_timeout_s: float | None = 60.0

    @property
    def timeout(self) -> httpx.Timeout:
        return httpx.Timeout(self.read_timeout_s, connect=CONNECT_S)


@dataclass(frozen=True, slots=True)
class Read:
    """Reads the streamed reply. The outcome is its next bytes, and none at its end."""


@dataclass(frozen=True, slots=True)
class Sleep:
    seconds: float


@dataclass(frozen=True, slots=True)
class Emit(Generic[T]):
    """Hands a value to the caller. A call with one result emits it last."""

    value: T


Step: TypeAlias = Send | Read | Sleep | Emit[T]
Call: TypeAlias = Generator[Step[T], Any, None]


def send(message: Send, retries: int) -> Generator[Step[Any], Any, httpx.Response]:
    """Returns a successful reply. Raises `Refused`, `NotReachable` and `NotThisServer`."""
    pause_s = FIRST_PAUSE_S
    for tries_left in range(retries, -1, -1):
        try:
            response: httpx.Response = yield message
        except httpx.TransportError as error:
            may_retry = message.repeatable or isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
            if not tries_left or not may_retry:
                raise NotReachable(_reason(error)) from error
        else:
            if response.is_success:
                return response
            refused = refusal(response.status_code, response.content, response.headers)
            temporary = isinstance(refused, Refused) and refused.code in (429, 502)
            retry_after_s = getattr(refused, "retry_after_s", None) or pause_s
            if not tries_left or not temporary or retry_after_s > LONGEST_PAUSE_S:
                raise refused
            pause_s = max(pause_s, retry_after_s)
        yield Sleep(pause_s)
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
    raise AssertionError("the last try returns or raises")


def next_bytes() -> Generator[Step[Any], Any, bytes]:
    """Returns the next bytes of the streamed reply, and none at its end. Raises `NotReachable`."""
    try:
        chunk: bytes = yield Read()
    except httpx.TransportError as error:
        raise NotReachable(f"the connection broke: {_reason(error)}") from error
    return chunk


def read(response: httpx.Response, kind: type[R]) -> R:
    return parse(response.content, kind)


def parse(text: bytes | str, kind: type[R]) -> R:
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        raise NotThisServer(f"The client cannot read the reply: {error}") from error


def _reason(error: httpx.TransportError) -> str:
    match error:
        case httpx.TimeoutException():
            return f"no answer in time ({type(error).__name__})"
        case _:
            return str(error) or type(error).__name__
