"""The client for plain code. One thread at a time; calls are written in `calls.py`."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
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


class AgentName:
    """Every method may raise what `server.client.errors` lists. Use it in a `with`, or `close` it."""

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
        """`base_url`: else AGENTNAME_URL, else http://localhost:3001. `api_key`: else AGENTNAME_API_KEY, else what the
        server of this machine left in its data directory. `transport` takes the place of the network."""
        where = address.find(base_url, api_key, data_dir)
        self.base_url = where.base_url
        self._calls = Calls(retries)
        self._sleep = sleep
        self._http = httpx.Client(
            base_url=where.base_url, headers=where.headers, trust_env=not where.local, transport=transport
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def generate(
        self, prompt: str, *, idempotency_key: str | None = None, **options: Unpack[GenerateOptions]
    ) -> Accepted:
        """Hand a picture (or `type="video"`) in; it is made while you `wait`."""
        return self._one(self._calls.generate(prompt, dict(options), idempotency_key))

    def status(self, job_id: str) -> Job:
        return self._one(self._calls.get(f"/api/status/{job_id}", Job))

    def watch(self, job_id: str) -> Generator[Job, None, None]:
        """The job now and each time it changes; the last one has ended, well or not."""
        return self._all(self._calls.watch(job_id))

    def wait(self, job_id: str, on_change: Callable[[Job], object] = lambda job: None) -> Job:
        """The completed job. Raises `JobFailed` and `JobCanceled`."""
        return completed(self._one(self._calls.watch(job_id), on_change))

    def jobs(self, status: str | None = None, limit: int | None = None, cursor: str | None = None) -> JobsPage:
        """One's own, newest first; `next_cursor` of a page is the `cursor` of the next."""
        return self._one(self._calls.get("/api/jobs", JobsPage, status=status, limit=limit, cursor=cursor))

    def cancel(self, job_id: str) -> Job:
        return self._one(self._calls.post(f"/api/jobs/{job_id}/cancel", Job))

    def delete(self, job_id: str) -> Job:
        """Cancels what has not ended, and deletes the files of what has."""
        return self._one(self._calls.delete(f"/api/jobs/{job_id}", Job))

    def download(self, output: Output) -> bytes:
        return self._one(self._calls.download(output))

    def save(self, output: Output, path: str | Path) -> Path:
        return self._one(self._calls.save(output, Path(path)))

    def chat(self, message: str, **options: Unpack[ChatOptions]) -> ChatReply:
        return self._one(self._calls.chat(message, dict(options)))

    def stream_chat(self, message: str, **options: Unpack[ChatOptions]) -> Generator[ChatDelta | ChatReply, None, None]:
        """The pieces as they are made, and the whole reply last. Leaving the loop stops the model."""
        return self._all(self._calls.stream_chat(message, dict(options)))

    def models(self) -> list[Model]:
        return self._one(self._calls.get("/api/models", ModelList)).models

    def gpu(self) -> list[Device]:
        return self._one(self._calls.get("/api/gpu", DeviceList)).devices

    def load(self, model: str) -> Model:
        """Asked for, not waited for: its state becomes `loading`, then `resident` or `failed`. These four want an admin key."""
        return self._one(self._calls.post(f"/api/models/{model}/load", Model))

    def unload(self, model: str) -> Model:
        """It goes once its running jobs are done."""
        return self._one(self._calls.post(f"/api/models/{model}/unload", Model))

    def pin(self, model: str) -> Model:
        """Once in memory it stays, also across restarts."""
        return self._one(self._calls.post(f"/api/models/{model}/pin", Model))

    def unpin(self, model: str) -> Model:
        return self._one(self._calls.post(f"/api/models/{model}/unpin", Model))

    def request(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """The JSON of a route that has no method here."""
        return self._one(self._calls.any(method, path, body))

    def _one(self, call: Call[T], on_each: Callable[[T], object] = lambda value: None) -> T:
        """The last value that `call` emits."""
        values = self._all(call)
        last = next(values)
        on_each(last)
        for last in values:
            on_each(last)
        return last

    def _all(self, call: Call[T]) -> Generator[T, None, None]:
        """Drive `call`: do what it says, tell it what came of it, hand out what it emits."""
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
            params=step.params or None,
            headers=step.headers,
            timeout=step.timeout,
        )
        response = self._http.send(request, stream=True)
        if not step.stream or response.is_error:
            response.read()
        return response
