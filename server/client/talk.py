"""A call is a generator that says what to do next and is given the outcome: written once, driven by plain code or by asyncio.

Retrying is decided here. What reached nobody, or may be repeated without harm, is tried again; so is what the server turned away
for a moment (429 and 502 with a short Retry-After): nothing was accepted then.
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
FIRST_PAUSE_S = 0.25  # doubled from try to try
LONGEST_PAUSE_S = 10.0  # who is told to wait longer is told so at once


@dataclass(frozen=True, slots=True)
class Send:
    """Answered with the `httpx.Response`; when `stream`, its body is still to be `Read` unless it is an error."""

    method: str
    path: str
    json: Mapping[str, Any] | None = None
    params: Mapping[str, str | int] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    stream: bool = False
    repeatable: bool = True  # the server does it once however often it is told
    read_timeout_s: float | None = 60.0

    @property
    def timeout(self) -> httpx.Timeout:
        return httpx.Timeout(self.read_timeout_s, connect=CONNECT_S)


@dataclass(frozen=True, slots=True)
class Read:
    """Answered with the next bytes of the streamed reply, none at its end."""


@dataclass(frozen=True, slots=True)
class Sleep:
    seconds: float


@dataclass(frozen=True, slots=True)
class Emit(Generic[T]):
    """Hands a value to the caller. A call that has one result emits it once, last."""

    value: T


Step: TypeAlias = Send | Read | Sleep | Emit[T]
Call: TypeAlias = Generator[Step[T], Any, None]


def send(message: Send, retries: int) -> Generator[Step[Any], Any, httpx.Response]:
    """The reply, when it is a success. Raises `Refused`, `NotReachable`, `NotThisServer`."""
    pause_s = FIRST_PAUSE_S
    for tries_left in range(retries, -1, -1):
        try:
            response: httpx.Response = yield message
        except httpx.TransportError as error:
            harmless = message.repeatable or isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
            if not tries_left or not harmless:
                raise NotReachable(_reason(error)) from error
        else:
            if response.is_success:
                return response
            refused = refusal(response.status_code, response.content, response.headers)
            momentary = isinstance(refused, Refused) and refused.code in (429, 502)
            wanted_s = getattr(refused, "retry_after_s", None) or pause_s
            if not tries_left or not momentary or wanted_s > LONGEST_PAUSE_S:
                raise refused
            pause_s = max(pause_s, wanted_s)
        yield Sleep(pause_s)
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
    raise AssertionError("the last try returns or raises")


def next_bytes() -> Generator[Step[Any], Any, bytes]:
    """Of the reply that is being streamed; empty at its end. Raises `NotReachable`."""
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
        raise NotThisServer(f"A reply that this client cannot read: {error}") from error


def _reason(error: httpx.TransportError) -> str:
    match error:
        case httpx.TimeoutException():
            return f"no answer in time ({type(error).__name__})"
        case _:
            return str(error) or type(error).__name__
