"""The JSON body of every error: {"error", "code"}, or OpenAI's shape under /v1. Pure functions.

A body has at most 1 KiB and echoes nothing of the request.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from server.errors import ServerError

MAX_MESSAGE_BYTES = 800  # with JSON keys and escapes, an error stays under 1 KiB

OPENAI = "/v1/"
OPENAI_TYPES: Mapping[int, str] = {403: "permission_error", 429: "rate_limit_error"}
# Codes of errors that have none of their own. OpenAI's clients tell errors apart by them.
OPENAI_CODES: Mapping[int, str] = {
    401: "invalid_api_key",
    404: "not_found",
    413: "request_too_large",
    429: "rate_limit_exceeded",
}

# Texts for errors that the framework raises itself.
TEXTS: Mapping[int, str] = {
    400: "The request is not valid.",
    404: "There is nothing at this address.",
    405: "This address does not accept that method.",
    413: "The body is too large.",
    416: "The requested range starts after the end of the file.",
    500: "Internal error. The log has it under this reply's X-Request-Id.",
    502: "The backend is unavailable. Try again shortly.",
}


def error_body(
    status: int, message: str, path: str = "", *, code: str | None = None, param: str | None = None
) -> bytes:
    """Returns the body of an error. `path`, the path of the request, decides between our shape and OpenAI's."""
    if path.startswith(OPENAI):
        shape = openai_error(status, message, code=code, param=param)
    else:
        shape = {"error": _shortened(message), "code": status}
    return json.dumps(shape, ensure_ascii=False, separators=(",", ":")).encode()


def openai_error(status: int, message: str, *, code: str | None = None, param: str | None = None) -> dict[str, Any]:
    """Returns an error in the shape that OpenAI's clients read."""
    kind = "server_error" if status >= 500 else OPENAI_TYPES.get(status, "invalid_request_error")
    code = code or OPENAI_CODES.get(status)
    return {"error": {"message": _shortened(message), "type": kind, "param": param, "code": code}}


def openai_error_of(error: ServerError) -> dict[str, Any]:
    return openai_error(error.status, error.message, code=error.code, param=error.param)


def text_of(status: int) -> str:
    return TEXTS.get(status) or f"{HTTPStatus(status).phrase}."


def _shortened(message: str) -> str:
    return message.encode("utf-8", "replace")[:MAX_MESSAGE_BYTES].decode("utf-8", "ignore")
