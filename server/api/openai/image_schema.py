"""Bodies about images in OpenAI's format, and their conversion to the service's own type. Pure functions.

A field that this server cannot honor is rejected by name. Only fields without any effect on the result are ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

from pydantic import Field

from pipelines.step_schedule import Speed
from server.api.media_fields import Share
from server.api.schemas import read_body
from server.api.shared.field_rules import same_json
from server.api.strict_fields import NO_NUL, ModelName, Prompt, Seed, Strict
from server.errors import BadRequest
from server.jobs.request.generate_request import GenerateRequest

# Accepted and ignored: clients send these on their own, and they do not change the result.
IGNORED = frozenset({"user", "metadata", "safety_identifier", "prompt_cache_key", "prompt_cache_retention"})
# Accepted with these values only, which ask for nothing; any other value asks for something this server cannot do.
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "quality": ("auto", "standard"), "background": ("auto", "opaque"), "moderation": ("auto", "low"),
    "stream": (False,), "output_compression": (100,), "partial_images": (0,),
}  # fmt: skip

ResponseFormat: TypeAlias = Literal["url", "b64_json"]
SIZE = r"^([1-9][0-9]{1,4}x[1-9][0-9]{1,4}|auto)$"


class ImageOptions(Strict):
    model: ModelName | None = None
    n: int | None = Field(None, ge=1, le=8, description="a whole number from 1 to 8")
    size: str | None = Field(None, pattern=SIZE, description="WIDTHxHEIGHT in pixels that the model accepts, or auto")
    response_format: ResponseFormat | None = Field(None, description="url or b64_json")
    output_format: Literal["png", "webp", "jpeg"] | None = Field(None, description="one of png, webp, jpeg")
    negative_prompt: str | None = Field(
        None, max_length=4000, pattern=NO_NUL, description="text of at most 4000 characters"
    )
    steps: int | None = Field(None, ge=1, le=1000, description="a whole number from 1 to 1000")
    guidance_scale: float | None = Field(None, ge=0, le=100, description="a number from 0 to 100")
    seed: Seed | None = None
    speed: Speed | None = Field(None, description="one of exact, balanced, fast")


class ImageGeneration(ImageOptions):
    prompt: Prompt


class ImageVariation(ImageOptions):
    strength: Share | None = Field(
        None, description="a number from 0 (nothing changes) to 1 (all is made anew), for models that take it"
    )


class ImageEdit(ImageVariation):
    prompt: Prompt
    input_fidelity: Literal["low", "high"] | None = Field(
        None, description="low or high: a smaller strength, for models that take one and a request that has none"
    )


# Fields that are no text in JSON: in a form they are written out.
TYPED = frozenset(
    {"n", "steps", "guidance_scale", "seed", "strength", "stream", "output_compression", "partial_images"}
)


def read_image(raw: Mapping[str, Any]) -> tuple[GenerateRequest, ResponseFormat | None]:
    """Returns the request for the service, and the format in which the client wants the images. Raises `BadRequest`."""
    return _read(read_body(ImageGeneration, _supported(raw)))


def read_edit(raw: Mapping[str, Any]) -> tuple[GenerateRequest, ResponseFormat | None, bool]:
    """As `read_image`, for an edit whose pictures were taken out, and whether it is to be faithful to them."""
    body = read_body(ImageEdit, _supported(raw))
    return *_read(body), body.input_fidelity == "high"


def read_variation(raw: Mapping[str, Any]) -> tuple[GenerateRequest, ResponseFormat | None]:
    """As `read_image`, for a variation whose picture was taken out. It has no prompt."""
    return _read(read_body(ImageVariation, _supported(raw)))


def _read(body: ImageOptions) -> tuple[GenerateRequest, ResponseFormat | None]:
    values = body.model_dump(exclude_none=True, exclude={"size", "response_format", "input_fidelity"})
    width, height = read_sides(body.size)
    return GenerateRequest(**{"type": "image", "prompt": ""} | values, width=width, height=height), body.response_format


def read_sides(size: str | None) -> tuple[int, int] | tuple[None, None]:
    if size is None or size == "auto":
        return None, None
    width, height = size.split("x")
    return int(width), int(height)


def _supported(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields without the ignored and the neutral ones. Raises `BadRequest` for an unsupported value."""
    fields = {name: value for name, value in raw.items() if value is not None and name not in IGNORED}
    for name, values in NEUTRAL.items():
        if name in fields and not any(same_json(fields[name], value) for value in values):
            raise BadRequest(f"{name} is not supported by this server. Leave it out.", param=name)
        fields.pop(name, None)
    return fields
