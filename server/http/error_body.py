"""The JSON body of every error, in the shape of the API that the request's path belongs to. Pure functions.

Ours is {"error", "code"}; OpenAI's is used under /v1, and Anthropic's under /v1/messages. A body has at most 1 KiB and
echoes nothing of the request.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from server.errors import ServerError

MAX_MESSAGE_BYTES = 800  # with JSON keys and escapes, an error stays under 1 KiB

OPENAI_TYPES: Mapping[int, str] = {403: "permission_error", 429: "rate_limit_error"}
# Codes of errors that have none of their own. OpenAI's clients tell errors apart by them.
OPENAI_CODES: Mapping[int, str] = {
    401: "invalid_api_key",
    404: "not_found",
    413: "request_too_large",
    429: "rate_limit_exceeded",
}
# Anthropic's clients choose a class of exception by the status, and show the type. Others are invalid requests.
ANTHROPIC_TYPES: Mapping[int, str] = {
    401: "authentication_error", 403: "permission_error", 404: "not_found_error", 413: "request_too_large",
    429: "rate_limit_error", 500: "api_error", 502: "overloaded_error",
}  # fmt: skip

# Texts for errors that the framework raises itself.
TEXTS: Mapping[int, str] = {
    400: "The request is not valid.",
    404: "There is nothing at this address.",
    405: "This address does not accept that method.",
    408: "The headers of the request arrived too slowly.",
    413: "The body is too large.",
    416: "The requested range starts after the end of the file.",
    431: "The request has too many headers, or they are too long.",
    500: "Internal error. The log has it under this reply's X-Request-Id.",
    502: "The backend is unavailable. Try again shortly.",
}


@dataclass(frozen=True, slots=True)
class Fault:
    """An error, before it has the shape of an API."""

    status: int
    message: str
    code: str | None = None  # OpenAI's
    param: str | None = None  # the field at fault
    request_id: str = ""


@dataclass(frozen=True, slots=True)
class Dialect:
    """How one API tells errors."""

    shape: Callable[[Fault], dict[str, Any]]
    event: str | None = "error"  # the name of the server-sent event that ends a stream; None: it has no name
    id_header: str = "x-request-id"  # of every reply: where its clients look for the id of the request


def dialect_of(path: str) -> Dialect:
    """path: of the request."""
    return next((dialect for prefix, dialect in DIALECTS if f"{path}/".startswith(prefix)), OURS)


def error_body(
    status: int,
    message: str,
    path: str = "",
    *,
    code: str | None = None,
    param: str | None = None,
    request_id: str = "",
) -> bytes:
    """Returns the body of an error. path: of the request; it decides the shape."""
    shape = dialect_of(path).shape(Fault(status, message, code, param, request_id))
    return json.dumps(shape, ensure_ascii=False, separators=(",", ":")).encode()


def openai_error_of(error: ServerError) -> dict[str, Any]:
    """Returns an error in the shape that OpenAI's clients read."""
    return _openai(_fault(error))


def stream_error(error: ServerError, path: str, request_id: str = "") -> tuple[str | None, dict[str, Any]]:
    """Returns name and data of the event that ends a stream at this path with an error."""
    dialect = dialect_of(path)
    return dialect.event, dialect.shape(_fault(error, request_id))


def text_of(status: int) -> str:
    return TEXTS.get(status) or f"{HTTPStatus(status).phrase}."


def _fault(error: ServerError, request_id: str = "") -> Fault:
    return Fault(error.status, error.message, error.code, error.param, request_id)


def _ours(fault: Fault) -> dict[str, Any]:
    return {"error": _shortened(fault.message), "code": fault.status}


def _openai(fault: Fault) -> dict[str, Any]:
    kind = "server_error" if fault.status >= 500 else OPENAI_TYPES.get(fault.status, "invalid_request_error")
    code = fault.code or OPENAI_CODES.get(fault.status)
    return {"error": {"message": _shortened(fault.message), "type": kind, "param": fault.param, "code": code}}


def _anthropic(fault: Fault) -> dict[str, Any]:
    """Claude Code recognizes a conversation that has become too long by the first words of the message."""
    message = fault.message
    if fault.code == "context_length_exceeded":
        message = f"prompt is too long: {message}"
    kind = ANTHROPIC_TYPES.get(fault.status, "invalid_request_error")
    error: dict[str, Any] = {"type": kind, "message": _shortened(message)}
    if fault.code:
        error["details"] = {"error_code": fault.code}
    return {"type": "error", "error": error, "request_id": fault.request_id or None}


def _shortened(message: str) -> str:
    return message.encode("utf-8", "replace")[:MAX_MESSAGE_BYTES].decode("utf-8", "ignore")


OURS = Dialect(_ours)
OPENAI = Dialect(_openai, event=None)
ANTHROPIC = Dialect(_anthropic, id_header="request-id")
# The first that a path begins with counts.
DIALECTS: Sequence[tuple[str, Dialect]] = (("/v1/messages/", ANTHROPIC), ("/v1/", OPENAI))
