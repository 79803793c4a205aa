"""What the routes under /v1 share: OpenAI's error in the OpenAPI document, seconds for times, and what becomes of a failed job."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel

from server.errors import BadRequest, Internal, ServerError, Unavailable
from server.job import State
from server.jobs.job_view import JobView


class OpenAIErrorReply(BaseModel):
    error: dict[str, str | None]  # message, type, param, code


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """For a route's `responses`: these, and what every route may answer."""
    return {status: {"model": OpenAIErrorReply} for status in sorted({400, 401, 403, 500, 502, *statuses})}


def seconds(at: datetime | None) -> int | None:
    return None if at is None else int(at.timestamp())


def failure(view: JobView) -> ServerError:
    """Why a job that its client waited for gave nothing."""
    error = view.error or {}
    if view.status is State.CANCELED:
        return Unavailable("The job was canceled.")
    if error.get("code") in ("bad_request", "context_overflow"):
        return BadRequest(str(error["message"]))
    if error.get("retryable"):
        return Unavailable(str(error["message"]))
    return Internal(str(error.get("message", "The job failed.")))
