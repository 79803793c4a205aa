"""The fields of POST /api/generate for pictures, clips and adapters that are more than one text. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, TypeAlias

from pydantic import Field

from server.api.strict_fields import NO_NUL, PRINTABLE, ModelName, Strict
from server.errors import BadRequest
from server.jobs.request.generate_request import WantedControl, WantedImagePrompt
from server.jobs.request.task_choice import MEDIA

Picture: TypeAlias = Annotated[str, Field(min_length=1, pattern=NO_NUL, description=f"a picture: {MEDIA}")]
Clip: TypeAlias = Annotated[str, Field(min_length=1, pattern=NO_NUL, description=f"a clip: {MEDIA}")]
Share: TypeAlias = Annotated[float, Field(ge=0, le=1)]
CONTROL = (
    'a list of 1 to 4 objects like {"type": "canny", "image": IMAGE, "strength": 1.0, "start": 0.0, "end": 1.0}, with '
    f'a type or the name of a "model", or both, where IMAGE is {MEDIA}'
)
IP_ADAPTER = (
    'an object like {"image": IMAGE, "model": NAME, "strength": 0.6}, or a list of 1 to 4 of them, where IMAGE is '
    f"{MEDIA}"
)


class Control(Strict):
    image: Picture
    type: str | None = Field(None, max_length=64, pattern=PRINTABLE)
    model: ModelName | None = None
    preprocessor: str | None = Field(None, max_length=64, pattern=PRINTABLE)
    strength: float = Field(1.0, ge=0, le=10)
    start: Share = 0.0
    end: Share = 1.0


class IpAdapter(Strict):
    image: Picture | None = None
    images: list[Picture] | None = Field(None, min_length=1, max_length=8)
    model: ModelName | None = None
    strength: float = Field(1.0, ge=0, le=10)


class Upscale(Strict):
    model: ModelName | None = None
    scale: float | None = Field(None, gt=1, le=8)


def wanted_controls(controls: Sequence[Control]) -> tuple[WantedControl, ...]:
    """Raises `BadRequest` for one with neither a type nor a model."""
    if any(control.type is None and control.model is None for control in controls):
        raise BadRequest(f"control must be {CONTROL}.", param="control")
    return tuple(WantedControl(**control.model_dump()) for control in controls)


def wanted_image_prompts(wanted: IpAdapter | Sequence[IpAdapter]) -> tuple[WantedImagePrompt, ...]:
    """Raises `BadRequest` for one with no pictures, or with both fields for them."""
    prompts = [wanted] if isinstance(wanted, IpAdapter) else wanted
    if any((prompt.image is None) == (prompt.images is None) for prompt in prompts):
        raise BadRequest(f"ip_adapter must be {IP_ADAPTER}.", param="ip_adapter")
    return tuple(
        WantedImagePrompt(
            images=tuple(prompt.images or [prompt.image or ""]), model=prompt.model, strength=prompt.strength
        )
        for prompt in prompts
    )
