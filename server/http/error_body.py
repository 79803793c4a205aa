"""The one shape of an error: {"error", "code"}, at most 1 KiB, nothing of the input in it. Under /v1 it is OpenAI's shape."""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

MAX_MESSAGE_BYTES = 900  # with its frame and escapes an error stays under 1 KiB

OPENAI = "/v1/"
OPENAI_TYPES: Mapping[int, str] = {403: "permission_error", 429: "rate_limit_error"}
OPENAI_CODES: Mapping[int, str] = {401: "invalid_api_key", 404: "not_found", 429: "rate_limit_exceeded"}

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


def error_body(status: int, message: str, path: str = "") -> bytes:
    """`path`: which was asked for; its family decides the shape."""
    short = message.encode("utf-8", "replace")[:MAX_MESSAGE_BYTES].decode("utf-8", "ignore")
    shape = openai_error(status, short) if path.startswith(OPENAI) else {"error": short, "code": status}
    return json.dumps(shape, ensure_ascii=False, separators=(",", ":")).encode()


def openai_error(status: int, message: str) -> dict[str, Any]:
    """As OpenAI's clients read it."""
    kind = "server_error" if status >= 500 else OPENAI_TYPES.get(status, "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": None, "code": OPENAI_CODES.get(status)}}


def text_of(status: int) -> str:
    return TEXTS.get(status) or f"{HTTPStatus(status).phrase}."
