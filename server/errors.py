"""The errors that become HTTP replies. The client sees their message: facts with units, nothing echoed from the
request.

ServerError
  BadRequest          400  a field is wrong; the message names it and the allowed values
    NeverFits         400  the job needs more memory than the device has when it is empty
    ContextTooLong    400  the prompt leaves no room for a reply in the model's context
  Unauthorized        401  the key is missing or invalid; one text for all cases
  Forbidden           403  the key is valid but lacks the scope; or the origin is not allowed
  NotFound            404  the path, job or file is unknown, or belongs to another key
    UnknownModel      404  the catalogue has no model of that name
  MethodNotAllowed    405
  Conflict            409  an idempotency key with another request; all models are pinned
  TooLarge            413  the body is larger than the limit
  UnsupportedMedia    415  the body is compressed
  TooMany             429  the plan's daily limit, too many requests at once, a full queue; the text says which
  Internal            500  a bug; the log has the request id
  Unavailable         502  the engine is starting, stopping or dead; a model failed to load
    ModelStillRead    502  the files of the model are still being read, soon after a start or a change
"""

from __future__ import annotations

from typing import ClassVar


class ServerError(Exception):
    """`code` and `param` are OpenAI's and appear under /v1 alone: what its clients act on, and the field at fault."""

    status: ClassVar[int] = 500
    usual_code: ClassVar[str | None] = None
    usual_param: ClassVar[str | None] = None

    def __init__(
        self, message: str, *, retry_after_s: int | None = None, code: str | None = None, param: str | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after_s = retry_after_s
        self.code = code or self.usual_code
        self.param = param or self.usual_param


class BadRequest(ServerError):
    status = 400


class NeverFits(BadRequest):
    pass


class ContextTooLong(BadRequest):
    usual_code = "context_length_exceeded"
    usual_param = "messages"


class Unauthorized(ServerError):
    status = 401

    def __init__(self) -> None:
        super().__init__("Missing or invalid API key. Send 'Authorization: Bearer YOUR_API_KEY'.")


class Forbidden(ServerError):
    status = 403


class NotFound(ServerError):
    status = 404


class UnknownModel(NotFound):
    usual_code = "model_not_found"
    usual_param = "model"


class MethodNotAllowed(ServerError):
    status = 405


class Conflict(ServerError):
    status = 409


class TooLarge(ServerError):
    status = 413


class UnsupportedMedia(ServerError):
    status = 415


class TooMany(ServerError):
    status = 429


class Internal(ServerError):
    status = 500


class Unavailable(ServerError):
    status = 502


class ModelStillRead(Unavailable):
    def __init__(self, message: str) -> None:
        super().__init__(message, retry_after_s=2)
