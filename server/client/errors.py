"""The errors of the client.

AgentNameError
  NoKey                    no key was given, and no local server has left one in its data directory
  NotReachable             no server answers, or the connection broke
  NotThisServer            another program answers, or the reply is damaged
  Refused                  the server replied with an error: `code`, `retry_after_s`, `request_id`
    BadRequest        400  a field is wrong; the message names it
    Unauthorized      401
    Forbidden         403  the key lacks the scope
    NotFound          404  the job, model or path does not exist
    Conflict          409
    TooLarge          413
    TooManyRequests   429  the plan's daily limit, too many requests at once, a full queue; the message says which
    ServerFault       500
    Unavailable       502  the server is starting or stopping, or the model does not load
  JobDidNotComplete        `job` has the whole status
    JobFailed              `job.error` has the reason
    JobCanceled
"""

from __future__ import annotations

import json

import httpx

from server.client.replies import Job


class AgentNameError(Exception):
    """Base class of all errors of this package."""


class NoKey(AgentNameError):
    pass


class NotReachable(AgentNameError):
    pass


class NotThisServer(AgentNameError):
    pass


class Refused(AgentNameError):
    def __init__(
        self, message: str, *, code: int, retry_after_s: float | None = None, request_id: str | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.retry_after_s = retry_after_s
        self.request_id = request_id


class BadRequest(Refused):
    pass


class Unauthorized(Refused):
    pass


class Forbidden(Refused):
    pass


class NotFound(Refused):
    pass


class Conflict(Refused):
    pass


class TooLarge(Refused):
    pass


class TooManyRequests(Refused):
    pass


class ServerFault(Refused):
    pass


class Unavailable(Refused):
    pass


class JobDidNotComplete(AgentNameError):
    def __init__(self, job: Job) -> None:
        super().__init__(f"{job.job_id}: {job.error.message if job.error else job.status}")
        self.job = job


class JobFailed(JobDidNotComplete):
    pass


class JobCanceled(JobDidNotComplete):
    pass


BY_CODE: dict[int, type[Refused]] = {
    400: BadRequest,
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    413: TooLarge,
    429: TooManyRequests,
    500: ServerFault,
    502: Unavailable,
}


def refusal(code: int, body: bytes, headers: httpx.Headers) -> AgentNameError:
    """Returns the error for an HTTP error reply. A body in another shape means that another program has answered."""
    try:
        message = json.loads(body)["error"]
    except (ValueError, TypeError, KeyError):
        message = None
    if not isinstance(message, str):
        return NotThisServer(
            f"The reply {code} did not come from this server: is there a proxy, or another program at this URL?"
        )
    retry_after = headers.get("retry-after", "")
    retry_after_s = float(retry_after) if retry_after.isdecimal() and len(retry_after) < 10 else None
    return BY_CODE.get(code, Refused)(
        message, code=code, retry_after_s=retry_after_s, request_id=headers.get("x-request-id")
    )
