"""What the client says to the server: each call once, for both classes. See `talk.py` for how a call is written."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Generator
from pathlib import Path
from typing import Any, TypeVar

import httpx

from server.client.errors import (
    JobCanceled,
    JobFailed,
    NotReachable,
    NotThisServer,
    Refused,
    refusal,
)
from server.client.events import Event, EventReader
from server.client.replies import (
    Accepted,
    ChatDelta,
    ChatReply,
    Job,
    Output,
    Reply,
)
from server.client.talk import Call, Emit, Send, Sleep, Step, next_bytes, parse, read, send

R = TypeVar("R", bound=Reply)

CHAT_TIMEOUT_S = 600.0  # a message may wait behind others, and a long reply is one reply
SILENCE_S = 45.0  # of an event stream: three keep-alives missed
STATUS_EVENTS = frozenset({"position", "loading", "progress", "completed", "failed", "canceled"})
FIRST_POLL_S, LONGEST_POLL_S = 0.1, 1.0


class Calls:
    def __init__(self, retries: int) -> None:
        self._retries = retries

    def any(self, method: str, path: str, body: dict[str, Any] | None) -> Call[Any]:
        response = yield from send(Send(method, path, body, repeatable=method != "POST"), self._retries)
        yield Emit(response.json())

    def get(self, path: str, kind: type[R], **params: str | int | None) -> Call[R]:
        said = {name: value for name, value in params.items() if value is not None}
        yield from self._result(Send("GET", path, params=said), kind)

    def post(self, path: str, kind: type[R]) -> Call[R]:
        """Of those that may be repeated: cancel, load, unload, pin, unpin."""
        yield from self._result(Send("POST", path), kind)

    def delete(self, path: str, kind: type[R]) -> Call[R]:
        yield from self._result(Send("DELETE", path), kind)

    def generate(self, prompt: str, options: dict[str, Any], idempotency_key: str | None) -> Call[Accepted]:
        """With a key of its own when none is given: tried again after a broken connection, it is still one job."""
        headers = {"Idempotency-Key": idempotency_key or secrets.token_urlsafe(16)}
        body = {"prompt": prompt, "type": "image"} | options
        yield from self._result(Send("POST", "/api/generate", body, headers=headers), Accepted)

    def chat(self, message: str, options: dict[str, Any]) -> Call[ChatReply]:
        body = {"message": message} | _spelled(options)
        sending = Send("POST", "/api/chat", body, repeatable=False, read_timeout_s=CHAT_TIMEOUT_S)
        yield from self._result(sending, ChatReply)

    def stream_chat(self, message: str, options: dict[str, Any]) -> Call[ChatDelta | ChatReply]:
        body = {"message": message, "stream": True} | _spelled(options)
        opening = Send("POST", "/api/chat", body, stream=True, repeatable=False, read_timeout_s=CHAT_TIMEOUT_S)
        yield from send(opening, self._retries)
        reader = EventReader()
        while chunk := (yield from next_bytes()):
            for event in reader.feed(chunk):
                if event.name == "delta":
                    yield Emit(parse(event.data, ChatDelta))
                elif event.name == "done":
                    yield Emit(parse(event.data, ChatReply))
                    return
                elif event.name == "error":
                    raise refusal(_code(event), event.data.encode(), httpx.Headers())
        raise NotReachable("the stream ended before the reply did")

    def watch(self, job_id: str) -> Call[Job]:
        """The job now, and each time something about it changes, until it has ended.

        By the server's events; where it refuses to stream them, by asking again and again. A stream that breaks is no
        harm: a status says everything that was missed.
        """
        retries = 3 * self._retries  # a server that starts again takes longer than a hiccup
        streams, pause_s = True, FIRST_POLL_S
        job: Job | None = None
        while True:
            now = read((yield from send(Send("GET", f"/api/status/{job_id}"), retries)), Job)
            if now != job:
                yield Emit(now)
            if now.ended:
                return
            job = now
            if streams:
                try:
                    job = yield from self._follow(job)
                except Refused:
                    streams = False
                except NotReachable:
                    pause_s = LONGEST_POLL_S
                if job.ended:
                    return
            yield Sleep(pause_s)
            pause_s = min(1.3 * pause_s, LONGEST_POLL_S)

    def _follow(self, job: Job) -> Generator[Step[Job], Any, Job]:
        """Emits `job` as events change it. Returns it as it was when the stream ended."""
        path = f"/api/jobs/{job.job_id}/events"
        yield from send(Send("GET", path, stream=True, read_timeout_s=SILENCE_S), 0)
        reader = EventReader()
        while not job.ended and (chunk := (yield from next_bytes())):
            for event in reader.feed(chunk):
                if event.name in STATUS_EVENTS:
                    job = _changed(job, event)
                    yield Emit(job)
        return job

    def download(self, output: Output) -> Call[bytes]:
        response = yield from send(Send("GET", output.url), self._retries)
        content = response.content
        _check(output, hashlib.sha256(content).hexdigest())
        yield Emit(content)

    def save(self, output: Output, path: Path) -> Call[Path]:
        """Into a file beside it first: `path` is whole or not there."""
        part = path.with_name(f".{path.name}.part")
        digest = hashlib.sha256()
        try:
            yield from send(Send("GET", output.url, stream=True), self._retries)
            with part.open("wb") as file:
                while chunk := (yield from next_bytes()):
                    file.write(chunk)
                    digest.update(chunk)
            _check(output, digest.hexdigest())
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
        yield Emit(path)

    def _result(self, sending: Send, kind: type[R]) -> Generator[Step[R], Any, None]:
        yield Emit(read((yield from send(sending, self._retries)), kind))


def _spelled(options: dict[str, Any]) -> dict[str, Any]:
    """The one field of a request that the contract writes like those of replies."""
    return {"conversationId" if name == "conversation_id" else name: value for name, value in options.items()}


def _check(output: Output, sha256: str) -> None:
    if sha256 != output.sha256:
        raise NotThisServer(f"What came for {output.url.partition('?')[0]} is not what the server has: try again.")


def _changed(job: Job, event: Event) -> Job:
    """An event tells some fields of the status, its last one all. What waits no more has no place in the queue."""
    said = json.loads(event.data)
    if not isinstance(said, dict):
        raise NotThisServer(f"An event that this client cannot read: {event.name}")
    if said.get("status") != "queued":
        said = {"queue": None} | said
    return parse(json.dumps(job.as_json() | said), Job)


def _code(event: Event) -> int:
    try:
        return int(json.loads(event.data)["code"])
    except (ValueError, TypeError, KeyError):
        return 500


def completed(job: Job) -> Job:
    """Raises `JobFailed`, `JobCanceled`."""
    if job.status == "failed":
        raise JobFailed(job)
    if job.status == "canceled":
        raise JobCanceled(job)
    return job
