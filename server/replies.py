"""The one shape of an error: {"error", "code"}, at most 1 KiB, nothing of the input in it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus

MAX_MESSAGE_BYTES = 900  # with its frame and escapes an error stays under 1 KiB

# What the framework itself answers, in our words.
TEXTS: Mapping[int, str] = {
    400: "The request is not valid.",
    404: "There is nothing at this address.",
    405: "This address does not take that method.",
    413: "The body is larger than 64 KiB.",
    416: "The file ends before the range that was asked for.",
    500: "Internal error. The log has it under this reply's X-Request-Id.",
    502: "The backend is unavailable. Try again shortly.",
}


def error_body(status: int, message: str) -> bytes:
    short = message.encode("utf-8", "replace")[:MAX_MESSAGE_BYTES].decode("utf-8", "ignore")
    return json.dumps({"error": short, "code": status}, ensure_ascii=False, separators=(",", ":")).encode()


def text_of(status: int) -> str:
    return TEXTS.get(status) or f"{HTTPStatus(status).phrase}."
