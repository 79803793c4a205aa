"""The client for blocking code: executes the steps of a call. Its methods are in `methods.py`. One thread at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar, assert_never

import httpx

from server.client import address
from server.client.calls import Calls
from server.client.methods import Methods
from server.client.talk import Call, Emit, Read, Send, Sleep

T = TypeVar("T")


class AgentName(Methods):
    """Every method can raise the errors in `server.client.errors`. Use it in a `with`, or call `close`."""

    def __init__(
        self,
        base_url: str | None = None,
        api_key: str | None = None,
        *,
        data_dir: Path | None = None,
        retries: int = 3,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """`base_url`: by default AGENTNAME_URL, else http://localhost:3001. `api_key`: by default AGENTNAME_API_KEY,
        else the key in the data directory of the server on this machine. `transport` replaces the network.
        """
        server = address.find(base_url, api_key, data_dir)
        self.base_url = server.base_url
        self.calls = Calls(retries)
        self._sleep = sleep
        self._http = httpx.Client(
            base_url=server.base_url, headers=server.headers, trust_env=not server.local, transport=transport
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def one(self, call: Call[T]) -> T:
        """Executes `call` and returns the last value that it emits."""
        values = self.all(call)
        last = next(values)
        for value in values:
            last = value
        return last

    def all(self, call: Call[T]) -> Generator[T, None, None]:
        """Executes the steps of `call`, sends it their outcomes, and yields the values that it emits."""
        streamed: httpx.Response | None = None
        chunks: Iterator[bytes] | None = None
        answer: httpx.Response | bytes | None = None
        broken: httpx.TransportError | None = None
        try:
            while True:
                try:
                    step = call.throw(broken) if broken else call.send(answer)
                except StopIteration:
                    return
                answer, broken = None, None
                try:
                    match step:
                        case Send():
                            if streamed is not None:
                                streamed.close()
                            answer = streamed = self._send(step)
                            chunks = streamed.iter_bytes()
                        case Read():
                            assert chunks is not None, "a call sends before it reads"
                            answer = next(chunks, b"")
                        case Sleep():
                            self._sleep(step.seconds)
                        case Emit():
                            yield step.value
                        case _:
                            assert_never(step)
                except httpx.TransportError as error:
                    broken = error
        finally:
            call.close()
            if streamed is not None:
                streamed.close()

    def _send(self, step: Send) -> httpx.Response:
        request = self._http.build_request(
            step.method,
            step.path,
            json=step.json,
            content=step.content,
            params=step.params or None,
            headers=step.headers,
            timeout=step.timeout,
        )
        response = self._http.send(request, stream=True)
        if not step.stream or response.is_error:
            response.read()
        return response
