"""Bodies about videos in OpenAI's format, and their conversion to the service's own type. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from server.api.openai.image_schema import SIZE, read_sides
from server.api.schemas import read_body
from server.api.strict_fields import ModelName, Prompt, Strict
from server.errors import BadRequest
from server.jobs.request.generate_request import GenerateRequest


class VideoCreation(Strict):
    prompt: Prompt
    model: ModelName | None = None
    seconds: str | None = Field(
        None, pattern=r"^[1-9][0-9]?$", description="a whole number of seconds from 1 to 60, as text"
    )
    size: str | None = Field(None, pattern=SIZE, description="WIDTHxHEIGHT in pixels that the model accepts, or auto")


class VideoRemix(Strict):
    prompt: Prompt


class VideoEdit(VideoRemix):
    model: ModelName | None = None


def read_video(raw: Mapping[str, Any]) -> GenerateRequest:
    """Returns the request for the service, without the reference, which was taken out. Raises `BadRequest`."""
    seconds = raw.get("seconds")
    body = read_body(VideoCreation, {**raw, "seconds": str(seconds)} if type(seconds) is int else dict(raw))
    duration = None if body.seconds is None else int(body.seconds)
    if duration is not None and duration > 60:
        raise BadRequest("seconds must be a whole number of seconds from 1 to 60, as text.", param="seconds")
    width, height = read_sides(body.size)
    return GenerateRequest(
        type="video", prompt=body.prompt, model=body.model, duration=duration, width=width, height=height
    )


def read_video_edit(raw: Mapping[str, Any]) -> GenerateRequest:
    """Returns the request for the service, without the clip, which was taken out. Raises `BadRequest`."""
    body = read_body(VideoEdit, raw)
    return GenerateRequest(type="video", prompt=body.prompt, model=body.model)
