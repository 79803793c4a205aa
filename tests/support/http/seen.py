"""What a test's client saw of a server, for the audit: jobs that were accepted, errors, and what must not be logged."""

from __future__ import annotations

import json
import re
import threading
from dataclasses import dataclass, field
from typing import Any

MOST_ERRORS = 10_000
TEXTS = ("prompt", "message", "negative_prompt", "system")  # fields whose text is the client's own


@dataclass
class Seen:
    """Any thread."""

    accepted: dict[str, str | None] = field(default_factory=dict)  # id of a job → that of its key, where known
    errors: list[tuple[str, int, bytes]] = field(default_factory=list)  # path, status, body
    texts: set[str] = field(default_factory=set)  # prompts and messages
    keys: dict[str, str] = field(default_factory=dict)  # text of a key → its id
    expected_500: set[str] = field(default_factory=set)  # paths that a test made fail
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, method: str, path: str, sent: Any, authorization: str, status: int, body: bytes) -> None:
        with self._lock:
            if isinstance(sent, dict):
                self.texts |= {sent[name] for name in TEXTS if isinstance(sent.get(name), str)}
            if status >= 400:
                if len(self.errors) < MOST_ERRORS:
                    self.errors.append((path, status, body))
            elif (method, path) == ("POST", "/api/generate"):
                key = authorization.removeprefix("Bearer ")
                self.accepted[json.loads(body)["jobId"]] = self.keys.get(key)
            elif (method, path) == ("POST", "/api/keys"):
                reply = json.loads(body)
                self.keys[reply["key"]] = reply["id"]
            elif method == "DELETE" and (found := re.fullmatch(r"/api/jobs/(job_\w+)", path)):
                self.accepted.pop(found[1], None)
