"""The client for asyncio: executes the steps of a call. Its methods are in `methods.py`. Event loop only."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar, assert_never

import httpx

from server.client import address
from server.client.calls import Calls
from server.client.methods import Methods
from server.client.talk import Call, Emit, Read, Send, Sleep

T = TypeVar("T")


class AsyncAgentName(Methods):
    """`AgentName` for asyncio, with the same methods. Use it in an `async with`, or call `close`."""

    def __init__(
        self,
        base_url: str | None = None,
        api_key: str | None = None,
        *,
        data_dir: Path | None = None,
        retries: int = 3,
        transport: httpx.AsyncBaseTransport | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        server = address.find(base_url, api_key, data_dir)
        self.base_url = server.base_url
        self.calls = Calls(retries)
        self._sleep = sleep
        self._http = httpx.AsyncClient(
            base_url=server.base_url, headers=server.headers, trust_env=not server.local, transport=transport
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        await self._http.aclose()

    async def one(self, call: Call[T]) -> T:
        """Executes `call` and returns the last value that it emits."""
        async with aclosing(self.all(call)) as values:
            last = await anext(values)
            async for value in values:
                last = value
            return last

    async def all(self, call: Call[T]) -> AsyncGenerator[T, None]:
        """Executes the steps of `call`, sends it their outcomes, and yields the values that it emits."""
        streamed: httpx.Response | None = None
        chunks: AsyncIterator[bytes] | None = None
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
                                await streamed.aclose()
                            answer = streamed = await self._send(step)
                            chunks = streamed.aiter_bytes()
                        case Read():
                            assert chunks is not None, "a call sends before it reads"
                            answer = await anext(chunks, b"")
                        case Sleep():
                            await self._sleep(step.seconds)
                        case Emit():
                            yield step.value
                        case _:
                            assert_never(step)
                except httpx.TransportError as error:
                    broken = error
        finally:
            call.close()
            if streamed is not None:
                await streamed.aclose()

    async def _send(self, step: Send) -> httpx.Response:
        request = self._http.build_request(
            step.method,
            step.path,
            json=step.json,
            content=step.content,
            params=step.params or None,
            headers=step.headers,
            timeout=step.timeout,
        )
        response = await self._http.send(request, stream=True)
        if not step.stream or response.is_error:
            await response.aread()
        return response
