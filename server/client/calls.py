"""The client's calls to the server, each written once as a generator of steps; `talk.py` explains the steps.

Nothing here does network I/O.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, TypeVar, Unpack

import httpx

from server.client.errors import NotReachable, NotThisServer, refusal
from server.client.events import Event, EventReader
from server.client.following import completed, follow_job
from server.client.options import ChatOptions, GenerateOptions
from server.client.replies import (
    Accepted,
    ChatDelta,
    ChatReply,
    Conversation,
    ConversationInfo,
    ConversationsPage,
    DeletedFile,
    Device,
    DeviceList,
    FilesPage,
    Forgotten,
    InputFile,
    Job,
    JobsPage,
    Model,
    ModelList,
    Output,
    Reply,
)
from server.client.talk import Call, Emit, Send, Step, next_bytes, parse, read, send
from server.client.uploads import upload_file, uploaded

R = TypeVar("R", bound=Reply)

CHAT_TIMEOUT_S = 600.0  # a message may wait in the queue, and a reply may be long


class Calls:
    """One method per call; `methods.py` turns them into methods of both clients. Each can raise the errors in
    `errors.py`.
    """

    def __init__(self, retries: int) -> None:
        self._retries = retries

    def generate(
        self, prompt: str, *, idempotency_key: str | None = None, **options: Unpack[GenerateOptions]
    ) -> Call[Accepted]:
        """Submits an image job, or a video job with `type="video"`, and returns its id; `wait` waits for the result.

        Pictures and clips that are given as a `Path` or as bytes are uploaded first.
        """
        # Every request has an idempotency key, so that a retry after a broken connection does not create a second job.
        headers = {"Idempotency-Key": idempotency_key or secrets.token_urlsafe(16)}
        fields = yield from uploaded(options, self._retries)
        body = {"prompt": prompt, "type": "image", **fields}
        yield from self._result(Send("POST", "/api/generate", body, headers=headers), Accepted)

    def upload(self, file: str | Path | bytes) -> Call[InputFile]:
        """Sends a picture or clip, by the name of its file or as bytes, for later requests to name by its id."""
        yield Emit((yield from upload_file(file, self._retries)))

    def files(self, limit: int | None = None, cursor: str | None = None) -> Call[FilesPage]:
        """Lists the files that were uploaded, newest first. Pass a page's `next_cursor` as `cursor` for the next
        page.
        """
        query = {"limit": limit, "cursor": cursor}
        yield from self._result(Send("GET", "/api/files", params=_without_none(query)), FilesPage)

    def delete_file(self, file_id: str) -> Call[DeletedFile]:
        """Deletes an uploaded file. Jobs that were accepted with it still run."""
        yield from self._result(Send("DELETE", f"/api/files/{file_id}"), DeletedFile)

    def status(self, job_id: str) -> Call[Job]:
        """Returns the job's current state."""
        yield from self._result(Send("GET", f"/api/status/{job_id}"), Job)

    def watch(self, job_id: str) -> Call[Job]:
        """Yields the job now and after each change, until it has completed, failed or been canceled."""
        yield from follow_job(job_id, lambda job: None, self._retries)

    def wait(self, job_id: str, on_change: Callable[[Job], object] = lambda job: None) -> Call[Job]:
        """Waits until the job has completed and returns it. Raises `JobFailed` and `JobCanceled`."""
        completed((yield from follow_job(job_id, on_change, self._retries)))

    def jobs(self, status: str | None = None, limit: int | None = None, cursor: str | None = None) -> Call[JobsPage]:
        """Lists the key's jobs, newest first. Pass a page's `next_cursor` as `cursor` for the next page."""
        query = {"status": status, "limit": limit, "cursor": cursor}
        yield from self._result(Send("GET", "/api/jobs", params=_without_none(query)), JobsPage)

    def cancel(self, job_id: str) -> Call[Job]:
        """Cancels a waiting job at once, a running one before its next step. Deletes the files of a finished one."""
        yield from self._result(Send("POST", f"/api/jobs/{job_id}/cancel"), Job)

    def delete(self, job_id: str) -> Call[Job]:
        """Cancels a job that has not ended, and deletes the files of one that has."""
        yield from self._result(Send("DELETE", f"/api/jobs/{job_id}"), Job)

    def download(self, output: Output) -> Call[bytes]:
        """Returns the bytes of an output, checked against their SHA-256."""
        response = yield from send(Send("GET", output.url), self._retries)
        content = response.content
        _check(output, hashlib.sha256(content).hexdigest())
        yield Emit(content)

    def save(self, output: Output, path: str | Path) -> Call[Path]:
        """Saves an output to a file, checked against its SHA-256. An incomplete download leaves no file."""
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
        """Sends a message and returns the whole reply."""
        body = {"message": message} | _field_names(options)
        sending = Send("POST", "/api/chat", body, repeatable=False, read_timeout_s=CHAT_TIMEOUT_S)
        yield from self._result(sending, ChatReply)

    def stream_chat(self, message: str, **options: Unpack[ChatOptions]) -> Call[ChatDelta | ChatReply]:
        """Yields the pieces of the reply and of the thinking before it as they are generated, then the whole reply.
        Leaving the loop cancels it.
        """
        body = {"message": message, "stream": True} | _field_names(options)
        opening = Send("POST", "/api/chat", body, stream=True, repeatable=False, read_timeout_s=CHAT_TIMEOUT_S)
        yield from send(opening, self._retries)
        reader = EventReader()
        while chunk := (yield from next_bytes()):
            for event in reader.feed(chunk):
                if event.name == "delta":
                    yield Emit(parse(event.data, ChatDelta))
                elif event.name == "thinking":
                    yield Emit(ChatDelta(text="", thinking=parse(event.data, ChatDelta).text))
                elif event.name == "done":
                    yield Emit(parse(event.data, ChatReply))
                    return
                elif event.name == "error":
                    raise refusal(_code(event), event.data.encode(), httpx.Headers())
        raise NotReachable("the stream ended before the reply did")

    def conversations(self, limit: int | None = None, cursor: str | None = None) -> Call[ConversationsPage]:
        """Lists the key's conversations, the most recent reply first. Pass a page's `next_cursor` as `cursor` for the
        next page.
        """
        query = {"limit": limit, "cursor": cursor}
        yield from self._result(Send("GET", "/api/conversations", params=_without_none(query)), ConversationsPage)

    def conversation(self, conversation_id: str) -> Call[Conversation]:
        """Returns a conversation with all messages that are still stored, oldest first."""
        yield from self._result(Send("GET", f"/api/conversations/{conversation_id}"), Conversation)

    def rename_conversation(self, conversation_id: str, title: str) -> Call[ConversationInfo]:
        """Renames a conversation. Until then, its title is the beginning of its first message."""
        sending = Send("PATCH", f"/api/conversations/{conversation_id}", {"title": title})
        yield from self._result(sending, ConversationInfo)

    def forget_conversation(self, conversation_id: str) -> Call[Forgotten]:
        """Deletes a conversation with all its messages."""
        yield from self._result(Send("DELETE", f"/api/conversations/{conversation_id}"), Forgotten)

    def models(self) -> Call[list[Model]]:
        """Lists all models."""
        yield Emit(read((yield from send(Send("GET", "/api/models"), self._retries)), ModelList).models)

    def gpu(self) -> Call[list[Device]]:
        """Returns the memory of each device and who holds it."""
        yield Emit(read((yield from send(Send("GET", "/api/gpu"), self._retries)), DeviceList).devices)

    def load(self, model: str) -> Call[Model]:
        """Requests that a model be loaded and returns at once: its state becomes `loading`, then `resident` or
        `failed`. Needs an admin key, as do `unload`, `pin` and `unpin`.
        """
        yield from self._control(model, "load")

    def unload(self, model: str) -> Call[Model]:
        """Unloads a model once its running jobs have finished."""
        yield from self._control(model, "unload")

    def pin(self, model: str) -> Call[Model]:
        """Pins a model: once loaded, it is never evicted. The pin survives a restart of the server."""
        yield from self._control(model, "pin")

    def unpin(self, model: str) -> Call[Model]:
        """Removes the pin, so that the model can be evicted again."""
        yield from self._control(model, "unpin")

    def request(self, method: str, path: str, body: dict[str, Any] | None = None) -> Call[Any]:
        """Calls a route that has no method here, and returns its JSON."""
        response = yield from send(Send(method, path, body, repeatable=method != "POST"), self._retries)
        yield Emit(response.json())

    def _control(self, model: str, verb: str) -> Call[Model]:
        yield from self._result(Send("POST", f"/api/models/{model}/{verb}"), Model)

    def _result(self, sending: Send, kind: type[R]) -> Generator[Step[R], Any, None]:
        yield Emit(read((yield from send(sending, self._retries)), kind))


def _without_none(query: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in query.items() if value is not None}


def _field_names(options: ChatOptions) -> dict[str, Any]:
    """Renames `conversation_id`, the only field of a request body that the API spells in camel case."""
    return {"conversationId" if name == "conversation_id" else name: value for name, value in options.items()}


def _check(output: Output, sha256: str) -> None:
    if sha256 != output.sha256:
        raise NotThisServer(f"The download of {output.url.partition('?')[0]} has a wrong SHA-256: try again.")


def _code(event: Event) -> int:
    try:
        return int(json.loads(event.data)["code"])
    except (ValueError, TypeError, KeyError):
        return 500
