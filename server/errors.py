"""The errors raised on purpose. Their message is shown to the client: facts with units, no input echoed.

ServerError
  BadRequest          400  a field is wrong; the message names it and the allowed values
    NeverFits         400  the job is larger than the device even when empty
  Unauthorized        401  any key fault, one text
  Forbidden           403  a valid key without the scope; a foreign origin
  NotFound            404  unknown path, job, file; foreign ones alike
    UnknownModel      404  no such name in the catalogue
  MethodNotAllowed    405
  Conflict            409  idempotency conflict, all models pinned
  TooLarge            413  body over the limit
  TooMany             429  a day's plan used up, a burst, a full queue; the text says which
  Internal            500  a bug; its request id is in the log
  Unavailable         502  engine starting, draining or dead; a model failed to load
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
