"""The body of one request: what its route takes, and how it is read.

A body of at most 64 KiB is read before the route is called. A route that takes more reads its body itself, after the
API key was checked, and piece by piece: each piece is counted against the route's limit, against the memory that all
large bodies share, and against a deadline that moves on with what has arrived. Event loop only.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.types import Message, Receive

from server.errors import BadRequest, TooLarge, TooMany, UnsupportedMedia
from server.units import size

KIB, MIB = 2**10, 2**20
SMALL_BYTES = 64 * KIB
SHARED_BYTES = 256 * MIB
TIMEOUT_S = 10.0
MIN_BYTES_PER_S = 16 * KIB  # a slow line: 16 MiB may take 17 minutes
FORM_TYPE = re.compile(r"multipart/form-data\s*;", re.IGNORECASE)
JSON_TYPE = re.compile(r"application/json\s*(;\s*charset\s*=\s*\"?utf-8\"?\s*)?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class BodyRule:
    """What one path takes."""

    max_bytes: int = SMALL_BYTES
    takes_form: bool = False  # beside JSON
    takes_any_type: bool = False  # whatever Content-Type says: the route looks at it, or reads the body as JSON


OLLAMA = BodyRule(takes_any_type=True)  # its clients, and the examples of its documentation, name another type or none
SMALL_JSON = BodyRule()
RULES: Mapping[str, BodyRule] = {
    "/api/chat": BodyRule(64 * MIB, takes_any_type=True),  # pictures are a part of Ollama's
    "/api/generate": BodyRule(64 * MIB, takes_any_type=True),  # pictures are a part of ours and of Ollama's
    "/api/embed": BodyRule(16 * MIB, takes_any_type=True),
    "/api/embeddings": BodyRule(16 * MIB, takes_any_type=True),
    **dict.fromkeys(("/api/show", "/api/pull", "/api/push", "/api/create", "/api/copy", "/api/delete"), OLLAMA),
    "/api/files": BodyRule(33 * MIB, takes_any_type=True),  # a file of 32 MiB, in a form
    "/v1/chat/completions": BodyRule(64 * MIB),  # pictures are a part of it
    "/v1/completions": BodyRule(16 * MIB),
    "/v1/embeddings": BodyRule(16 * MIB),
    "/v1/messages": BodyRule(64 * MIB),
    "/v1/messages/count_tokens": BodyRule(64 * MIB),
    "/v1/responses": BodyRule(64 * MIB),
    "/v1/responses/input_tokens": BodyRule(64 * MIB),
    **dict.fromkeys(
        ("/v1/images/edits", "/v1/images/variations", "/v1/videos", "/v1/videos/edits"),
        BodyRule(64 * MIB, takes_form=True),
    ),
    "/v1/files": BodyRule(33 * MIB, takes_form=True),
    **dict.fromkeys(
        (
            f"/sdapi/v1/{name}"
            for name in ("txt2img", "img2img", "extra-single-image", "extra-batch-images", "png-info", "interrogate")
        ),
        BodyRule(64 * MIB),
    ),
}


class SharedMemory:
    """Counts the bytes of all large bodies together. The first 64 KiB of each are free, as those of small bodies are,
    so that a few large requests never keep small ones out. The bodies of one API key get three quarters of it, so
    that one key never keeps the others out; a single body may be larger.
    """

    def __init__(self, total_bytes: int = SHARED_BYTES) -> None:
        self.total_bytes = total_bytes
        self.used_bytes = 0
        self._of_key: Counter[str] = Counter()  # by id of the key

    def take(self, n_bytes: int, key_id: str = "", own_bytes: int = 0) -> None:
        """key_id: "" for no key, which has no limit of its own. own_bytes: what the body has taken before.

        Raises `TooMany` and takes nothing when fewer bytes are left.
        """
        of_key = self._of_key[key_id] + n_bytes if key_id else 0
        has_others = of_key > own_bytes + n_bytes
        if self.used_bytes + n_bytes > self.total_bytes or (has_others and of_key > self.total_bytes * 3 // 4):
            raise TooMany(
                f"Large requests may take {_size(self.total_bytes)} of memory together, those of one API key three "
                "quarters of it, and that is taken at the moment. Try again in a few seconds.",
                retry_after_s=5,
            )
        self.used_bytes += n_bytes
        if key_id:
            self._of_key[key_id] += n_bytes

    def give_back(self, n_bytes: int, key_id: str = "") -> None:
        self.used_bytes -= n_bytes
        if key_id:
            self._of_key[key_id] -= n_bytes
            if not self._of_key[key_id]:
                del self._of_key[key_id]


class Body:
    """`receive` takes the place of the server's own for the application behind the guard."""

    def __init__(
        self,
        headers: Headers,
        receive: Receive,
        rule: BodyRule,
        memory: SharedMemory,
        *,
        timeout_s: float = TIMEOUT_S,
        min_bytes_per_s: float = MIN_BYTES_PER_S,
        key_id: Callable[[], str] = lambda: "",
    ) -> None:
        """key_id: returns that of the API key that the request was sent with, once it is known; "" before."""
        self._headers = headers
        self._key_id = key_id
        self._counted_for = ""  # the key of the bytes taken from the shared memory
        self._receive = receive
        self._takes_form = rule.takes_form
        self._takes_any_type = rule.takes_any_type
        self._max_bytes = min(rule.max_bytes, SMALL_BYTES + memory.total_bytes)
        self._memory = memory
        self._timeout_s = timeout_s
        self._min_bytes_per_s = min_bytes_per_s
        self._started_at: float | None = None
        self._n_bytes = 0
        self._shared_bytes = 0  # of `_n_bytes`, those taken from the shared memory
        self.is_read_first = rule.max_bytes <= SMALL_BYTES
        self.is_empty = headers.get("content-length", "0") == "0" and "transfer-encoding" not in headers
        # Bytes of this request may still follow. The connection then has to be closed after the reply, or they would
        # be taken for the next request.
        self.is_unread = not self.is_empty

    def check_headers(self) -> None:
        """Raises BadRequest, TooLarge or UnsupportedMedia for a body that need not be read to be refused."""
        if self.is_empty:
            return
        length = self._headers.get("content-length", "0")
        if not re.fullmatch(r"[0-9]{1,20}", length, re.ASCII):
            raise BadRequest("Content-Length must be a number.")
        if int(length) > self._max_bytes:
            raise self._too_large()
        if any(encoding.lower() != "identity" for encoding in self._headers.getlist("content-encoding")):
            raise UnsupportedMedia("A compressed body is not accepted: send it without Content-Encoding.")
        if not self._takes_any_type:
            check_type(self._headers, takes_form=self._takes_form)

    async def receive(self) -> Message:
        """Returns the next piece of the body; after the last one, the server's own messages, i.e. the disconnect.

        Raises BadRequest for one that is too slow, `TooLarge`, and `TooMany` when the shared memory is used up.
        """
        if not self.is_unread:
            return await self._receive()
        loop = asyncio.get_running_loop()
        if self._started_at is None:
            self._started_at = loop.time()
        allowed_s = self._timeout_s + self._n_bytes / self._min_bytes_per_s
        try:
            async with asyncio.timeout_at(self._started_at + allowed_s):
                message = await self._receive()
        except TimeoutError:
            raise BadRequest(
                f"The body arrived too slowly: it may take {self._timeout_s:g} seconds, and one more for each "
                f"{_size(int(self._min_bytes_per_s))} that have arrived."
            ) from None
        if message["type"] == "http.request":
            self._count(len(message.get("body", b"")))
            self.is_unread = message.get("more_body", False)
        return message

    async def read(self) -> bytes | None:
        """Returns the whole body, or None when the client disconnected. Raises as `receive` does."""
        whole = bytearray()
        while self.is_unread:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                return None
            whole += message.get("body", b"")
        return bytes(whole)

    def release(self) -> None:
        """Gives the shared memory back. The request has ended, or does not need its body any more."""
        self._memory.give_back(self._shared_bytes, self._counted_for)
        self._shared_bytes = 0

    def _count(self, n_bytes: int) -> None:
        self._n_bytes += n_bytes
        if self._n_bytes > self._max_bytes:
            raise self._too_large()
        shared_bytes = max(0, self._n_bytes - SMALL_BYTES)
        if not self._shared_bytes:
            self._counted_for = self._key_id()
        self._memory.take(shared_bytes - self._shared_bytes, self._counted_for, self._shared_bytes)
        self._shared_bytes = shared_bytes

    def _too_large(self) -> TooLarge:
        return TooLarge(f"The body is larger than {_size(self._max_bytes)}, the limit of this address.")


def check_type(headers: Headers, *, takes_form: bool = False) -> None:
    """Raises `BadRequest` unless the body is said to be JSON in UTF-8, or a form where that is taken too."""
    media_type = headers.get("content-type", "").strip()
    if not JSON_TYPE.fullmatch(media_type) and not (takes_form and FORM_TYPE.match(media_type)):
        raise BadRequest("Content-Type must be application/json.")


def replay(body: bytes, receive: Receive) -> Receive:
    """Returns a `receive` that gives the body first, and then the server's own messages, i.e. the disconnect."""
    replayed = False

    async def replay_once() -> Message:
        nonlocal replayed
        if replayed:
            return await receive()
        replayed = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay_once


def _size(n_bytes: int) -> str:
    return size(n_bytes).replace(".0 ", " ")
