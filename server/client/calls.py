"""What the client says to the server: each call once, with its name and its arguments. See `talk.py` for how a call is written."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, TypeVar, Unpack

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
from server.client.options import ChatOptions, GenerateOptions
from server.client.replies import (
    Accepted,
    ChatDelta,
    ChatReply,
    Conversation,
    ConversationInfo,
    ConversationsPage,
    Device,
    DeviceList,
    Forgotten,
    Job,
    JobsPage,
    Model,
    ModelList,
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
    """One method a call; `methods.py` makes them methods of both clients. Each may raise what `errors.py` lists."""

    def __init__(self, retries: int) -> None:
        self._retries = retries

    def generate(
        self, prompt: str, *, idempotency_key: str | None = None, **options: Unpack[GenerateOptions]
    ) -> Call[Accepted]:
        """Hand a picture (or `type="video"`) in; it is made while you `wait`."""
        # With a key of its own when none is given: tried again after a broken connection, it is still one job.
        headers = {"Idempotency-Key": idempotency_key or secrets.token_urlsafe(16)}
        body = {"prompt": prompt, "type": "image", **options}
        yield from self._result(Send("POST", "/api/generate", body, headers=headers), Accepted)

    def status(self, job_id: str) -> Call[Job]:
        """How it stands."""
        yield from self._result(Send("GET", f"/api/status/{job_id}"), Job)

    def watch(self, job_id: str) -> Call[Job]:
        """The job now and each time it changes; the last one has ended, well or not."""
        yield from self._until_ended(job_id, lambda job: None)

    def wait(self, job_id: str, on_change: Callable[[Job], object] = lambda job: None) -> Call[Job]:
        """The completed job. Raises `JobFailed` and `JobCanceled`."""
        completed((yield from self._until_ended(job_id, on_change)))

    def jobs(self, status: str | None = None, limit: int | None = None, cursor: str | None = None) -> Call[JobsPage]:
        """One's own, newest first; `next_cursor` of a page is the `cursor` of the next."""
        said = {"status": status, "limit": limit, "cursor": cursor}
        params = {name: value for name, value in said.items() if value is not None}
        yield from self._result(Send("GET", "/api/jobs", params=params), JobsPage)

    def cancel(self, job_id: str) -> Call[Job]:
        """Waiting: at once. Running: before its next step."""
        yield from self._result(Send("POST", f"/api/jobs/{job_id}/cancel"), Job)

    def delete(self, job_id: str) -> Call[Job]:
        """Cancels what has not ended, and deletes the files of what has."""
        yield from self._result(Send("DELETE", f"/api/jobs/{job_id}"), Job)

    def download(self, output: Output) -> Call[bytes]:
        """The bytes, checked against their SHA-256."""
        response = yield from send(Send("GET", output.url), self._retries)
        content = response.content
        _check(output, hashlib.sha256(content).hexdigest())
        yield Emit(content)

    def save(self, output: Output, path: str | Path) -> Call[Path]:
        """Into a file, which is whole or not there."""
        path = Path(path)
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

    def chat(self, message: str, **options: Unpack[ChatOptions]) -> Call[ChatReply]:
        """The whole reply."""
        body = {"message": message} | _spelled(options)
        sending = Send("POST", "/api/chat", body, repeatable=False, read_timeout_s=CHAT_TIMEOUT_S)
        yield from self._result(sending, ChatReply)

    def stream_chat(self, message: str, **options: Unpack[ChatOptions]) -> Call[ChatDelta | ChatReply]:
        """The pieces as they are made, and the whole reply last. Leaving the loop stops the model."""
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

    def conversations(self, limit: int | None = None, cursor: str | None = None) -> Call[ConversationsPage]:
        """One's own, the one spoken in last first; `next_cursor` of a page is the `cursor` of the next."""
        said = {"limit": limit, "cursor": cursor}
        params = {name: value for name, value in said.items() if value is not None}
        yield from self._result(Send("GET", "/api/conversations", params=params), ConversationsPage)

    def conversation(self, conversation_id: str) -> Call[Conversation]:
        """With all that was said in it and is still kept, oldest first."""
        yield from self._result(Send("GET", f"/api/conversations/{conversation_id}"), Conversation)

    def rename_conversation(self, conversation_id: str, title: str) -> Call[ConversationInfo]:
        """Until then it is called by its first words."""
        sending = Send("PATCH", f"/api/conversations/{conversation_id}", {"title": title})
        yield from self._result(sending, ConversationInfo)

    def forget_conversation(self, conversation_id: str) -> Call[Forgotten]:
        """With all that was said in it."""
        yield from self._result(Send("DELETE", f"/api/conversations/{conversation_id}"), Forgotten)

    def models(self) -> Call[list[Model]]:
        """What there is."""
        yield Emit(read((yield from send(Send("GET", "/api/models"), self._retries)), ModelList).models)

    def gpu(self) -> Call[list[Device]]:
        """Who holds how many bytes."""
        yield Emit(read((yield from send(Send("GET", "/api/gpu"), self._retries)), DeviceList).devices)

    def load(self, model: str) -> Call[Model]:
        """Asked for, not waited for: its state becomes `loading`, then `resident` or `failed`. These four want an admin key."""
        yield from self._decide(model, "load")

    def unload(self, model: str) -> Call[Model]:
        """It goes once its running jobs are done."""
        yield from self._decide(model, "unload")

    def pin(self, model: str) -> Call[Model]:
        """Once in memory it stays, also across restarts."""
        yield from self._decide(model, "pin")

    def unpin(self, model: str) -> Call[Model]:
        """It may leave memory again."""
        yield from self._decide(model, "unpin")

    def request(self, method: str, path: str, body: dict[str, Any] | None = None) -> Call[Any]:
        """The JSON of a route that has no method here."""
        response = yield from send(Send(method, path, body, repeatable=method != "POST"), self._retries)
        yield Emit(response.json())

    def _decide(self, model: str, verb: str) -> Call[Model]:
        yield from self._result(Send("POST", f"/api/models/{model}/{verb}"), Model)

    def _until_ended(self, job_id: str, on_change: Callable[[Job], object]) -> Generator[Step[Job], Any, Job]:
        """Emits the job now, and each time something about it changes, until it has ended.

        By the server's events; where it refuses to stream them, by asking again and again. A stream that breaks is no
        harm: a status says everything that was missed.
        """
        retries = 3 * self._retries  # a server that starts again takes longer than a hiccup
        streams, pause_s = True, FIRST_POLL_S
        job: Job | None = None
        while True:
            now = read((yield from send(Send("GET", f"/api/status/{job_id}"), retries)), Job)
            if now != job:
                on_change(now)
                yield Emit(now)
            if now.ended:
                return now
            job = now
            if streams:
                try:
                    job = yield from self._follow(job, on_change)
                except Refused:
                    streams = False
                except NotReachable:
                    pause_s = LONGEST_POLL_S
                if job.ended:
                    return job
            yield Sleep(pause_s)
            pause_s = min(1.3 * pause_s, LONGEST_POLL_S)

    def _follow(self, job: Job, on_change: Callable[[Job], object]) -> Generator[Step[Job], Any, Job]:
        """Emits `job` as events change it. Returns it as it was when the stream ended."""
        path = f"/api/jobs/{job.job_id}/events"
        yield from send(Send("GET", path, stream=True, read_timeout_s=SILENCE_S), 0)
        reader = EventReader()
        while not job.ended and (chunk := (yield from next_bytes())):
            for event in reader.feed(chunk):
                if event.name in STATUS_EVENTS:
                    job = _changed(job, event)
                    on_change(job)
                    yield Emit(job)
        return job

    def _result(self, sending: Send, kind: type[R]) -> Generator[Step[R], Any, None]:
        yield Emit(read((yield from send(sending, self._retries)), kind))


def _spelled(options: ChatOptions) -> dict[str, Any]:
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
