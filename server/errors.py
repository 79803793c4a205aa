"""The errors that become HTTP replies. The client sees their message: facts with units, nothing echoed from the
request.

ServerError
  BadRequest          400  a field is wrong; the message names it and the allowed values
    NeverFits         400  the job needs more memory than the device has when it is empty
  Unauthorized        401  the key is missing or invalid; one text for all cases
  Forbidden           403  the key is valid but lacks the scope; or the origin is not allowed
  NotFound            404  the path, job or file is unknown, or belongs to another key
    UnknownModel      404  the catalogue has no model of that name
  MethodNotAllowed    405
  Conflict            409  an idempotency key with another request; all models are pinned
  TooLarge            413  the body is larger than the limit
  TooMany             429  the plan's daily limit, too many requests at once, a full queue; the text says which
  Internal            500  a bug; the log has the request id
  Unavailable         502  the engine is starting, stopping or dead; a model failed to load
"""

from __future__ import annotations

from typing import ClassVar


class ServerError(Exception):
    status: ClassVar[int] = 500

    def __init__(self, message: str, *, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after_s = retry_after_s


class BadRequest(ServerError):
    status = 400


class NeverFits(BadRequest):
    pass


class Unauthorized(ServerError):
    status = 401

    def __init__(self) -> None:
        super().__init__("Missing or invalid API key. Send 'Authorization: Bearer YOUR_API_KEY'.")


class Forbidden(ServerError):
    status = 403


class NotFound(ServerError):
    status = 404


class UnknownModel(NotFound):
    pass


class MethodNotAllowed(ServerError):
    status = 405


class Conflict(ServerError):
    status = 409


class TooLarge(ServerError):
    status = 413


class TooMany(ServerError):
    status = 429


class Internal(ServerError):
    status = 500


class Unavailable(ServerError):
    status = 502
