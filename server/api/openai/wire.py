"""Shared by the routes under /v1: OpenAI's error body for the OpenAPI document, Unix times, errors of failed jobs.

Pure functions.
"""

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
    """Returns `responses` for a route: the given error statuses, and those that every route can answer."""
    return {status: {"model": OpenAIErrorReply} for status in sorted({400, 401, 403, 500, 502, *statuses})}


def seconds(at: datetime | None) -> int | None:
    """Returns a time as whole Unix seconds."""
    return None if at is None else int(at.timestamp())


def failure(view: JobView) -> ServerError:
    """Returns the error for a client that waited for a job which did not complete."""
    error = view.error or {}
    if view.status is State.CANCELED:
        return Unavailable("The job was canceled.")
    if error.get("code") in ("bad_request", "context_overflow"):
        return BadRequest(str(error["message"]))
    if error.get("retryable"):
        return Unavailable(str(error["message"]))
    return Internal(str(error.get("message", "The job failed.")))
