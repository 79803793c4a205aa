"""The client for asyncio, method for method as `sync.py`. Calls are written in `calls.py`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack, assert_never

import httpx

from server.client import address
from server.client.calls import Calls, completed
from server.client.options import ChatOptions, GenerateOptions
from server.client.replies import (
    Accepted,
    ChatDelta,
    ChatReply,
    Device,
    DeviceList,
    Job,
    JobsPage,
    Model,
    ModelList,
    Output,
)
from server.client.talk import Call, Emit, Read, Send, Sleep

T = TypeVar("T")


class AsyncAgentName:
    """`AgentName` for asyncio: the same methods, awaited. Use it in an `async with`, or `close` it."""

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
        where = address.find(base_url, api_key, data_dir)
        self.base_url = where.base_url
        self._calls = Calls(retries)
        self._sleep = sleep
        self._http = httpx.AsyncClient(
            base_url=where.base_url, headers=where.headers, trust_env=not where.local, transport=transport
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        await self._http.aclose()

    async def generate(
        self, prompt: str, *, idempotency_key: str | None = None, **options: Unpack[GenerateOptions]
    ) -> Accepted:
        """Hand a picture (or `type="video"`) in; it is made while you `wait`."""
        return await self._one(self._calls.generate(prompt, dict(options), idempotency_key))

    async def status(self, job_id: str) -> Job:
        return await self._one(self._calls.get(f"/api/status/{job_id}", Job))

    def watch(self, job_id: str) -> AsyncGenerator[Job, None]:
        """The job now and each time it changes; the last one has ended, well or not."""
        return self._all(self._calls.watch(job_id))

    async def wait(self, job_id: str, on_change: Callable[[Job], object] = lambda job: None) -> Job:
        """The completed job. Raises `JobFailed` and `JobCanceled`."""
        return completed(await self._one(self._calls.watch(job_id), on_change))

    async def jobs(self, status: str | None = None, limit: int | None = None, cursor: str | None = None) -> JobsPage:
        """One's own, newest first; `next_cursor` of a page is the `cursor` of the next."""
        return await self._one(self._calls.get("/api/jobs", JobsPage, status=status, limit=limit, cursor=cursor))

    async def cancel(self, job_id: str) -> Job:
        return await self._one(self._calls.post(f"/api/jobs/{job_id}/cancel", Job))

    async def delete(self, job_id: str) -> Job:
        """Cancels what has not ended, and deletes the files of what has."""
        return await self._one(self._calls.delete(f"/api/jobs/{job_id}", Job))

    async def download(self, output: Output) -> bytes:
        return await self._one(self._calls.download(output))

    async def save(self, output: Output, path: str | Path) -> Path:
        return await self._one(self._calls.save(output, Path(path)))

    async def chat(self, message: str, **options: Unpack[ChatOptions]) -> ChatReply:
        return await self._one(self._calls.chat(message, dict(options)))

    def stream_chat(self, message: str, **options: Unpack[ChatOptions]) -> AsyncGenerator[ChatDelta | ChatReply, None]:
        """The pieces as they are made, and the whole reply last. Leaving the loop stops the model."""
        return self._all(self._calls.stream_chat(message, dict(options)))

    async def models(self) -> list[Model]:
        return (await self._one(self._calls.get("/api/models", ModelList))).models

    async def gpu(self) -> list[Device]:
        return (await self._one(self._calls.get("/api/gpu", DeviceList))).devices

    async def load(self, model: str) -> Model:
        return await self._one(self._calls.post(f"/api/models/{model}/load", Model))

    async def unload(self, model: str) -> Model:
        return await self._one(self._calls.post(f"/api/models/{model}/unload", Model))

    async def pin(self, model: str) -> Model:
        return await self._one(self._calls.post(f"/api/models/{model}/pin", Model))

    async def unpin(self, model: str) -> Model:
        return await self._one(self._calls.post(f"/api/models/{model}/unpin", Model))

    async def request(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """The JSON of a route that has no method here."""
        return await self._one(self._calls.any(method, path, body))

    async def _one(self, call: Call[T], on_each: Callable[[T], object] = lambda value: None) -> T:
        """The last value that `call` emits."""
        async with aclosing(self._all(call)) as values:
            last = await anext(values)
            on_each(last)
            async for last in values:
                on_each(last)
            return last

    async def _all(self, call: Call[T]) -> AsyncGenerator[T, None]:
        """Drive `call`: do what it says, tell it what came of it, hand out what it emits."""
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
            params=step.params or None,
            headers=step.headers,
            timeout=step.timeout,
        )
        response = await self._http.send(request, stream=True)
        if not step.stream or response.is_error:
            await response.aread()
        return response
