"""Request bodies of the native API: strict pydantic models, and their conversion to the service's own types.

A body that differs from the documentation in any way is rejected with a text that says what is expected: the
`description` of the field. Pure functions.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, NoReturn, TypeAlias, TypeVar

from pydantic import BaseModel, Field, ValidationError

from pipelines.chat_interface import Effort, Message, PromptOptions
from pipelines.diffusion_interface import Fit
from pipelines.step_schedule import Speed
from server.api.media_fields import (
    CONTROL,
    IP_ADAPTER,
    Clip,
    Control,
    IpAdapter,
    Picture,
    Share,
    Upscale,
    wanted_controls,
    wanted_image_prompts,
)
from server.api.strict_fields import FILE_NAME, NO_NUL, ModelName, Prompt, Seed, Side, Strict
from server.api.thinking import SWITCHED_ON
from server.errors import BadRequest, TooLarge
from server.jobs.request.generate_request import GenerateRequest, WantedUpscale
from server.jobs.request.output_size import AspectRatio
from server.jobs.request.task_choice import MEDIA
from server.service.chat_input import ChatInput

Body = TypeVar("Body", bound=BaseModel)

# Of JSON, also in its texts. Python's reader keeps the event loop waiting: 20 million empty lists take 20 seconds.
MAX_COMMAS = 2_000_000
MAX_BRACKETS = 250_000
CONVERSATION_ID = r"^[A-Za-z0-9_-]{1,64}$"
SHOWN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,39}")


class WantedLora(Strict):
    name: str = Field(max_length=255, pattern=FILE_NAME)
    weight: float = Field(1.0, ge=-10, le=10)


class Generate(Strict):
    prompt: Prompt
    aspect_ratio: AspectRatio | None = Field(None, description="one of 16:9, 1:1, 9:16")
    model: ModelName | None = None
    seed: Seed | None = None
    steps: int | None = Field(None, ge=1, le=1000, description="a whole number from 1 to 1000")
    guidance_scale: float | None = Field(None, ge=0, le=100, description="a number from 0 to 100")
    negative_prompt: str | None = Field(
        None, max_length=4000, pattern=NO_NUL, description="text of at most 4000 characters"
    )
    width: Side | None = None
    height: Side | None = None
    deterministic: bool | None = Field(None, description="true or false")
    speed: Speed | None = Field(None, description="one of exact, balanced, fast")
    scheduler: str | None = Field(
        None, pattern=r"^[A-Za-z0-9]{1,64}$", description="the name of a noise scheduler that GET /api/models lists"
    )
    clip_skip: int | None = Field(
        None, ge=0, le=100, description="a whole number from 0 to 100: how many of CLIP's last layers are skipped"
    )
    loras: list[WantedLora] | None = Field(
        None,
        min_length=1,
        max_length=8,
        description='a list of 1 to 8 objects like {"name": "NAME", "weight": 0.8}, the name from GET /api/loras and '
        "without / or \\, the weight from -10 to 10",
    )
    image: Picture | None = None
    mask: Picture | None = None
    strength: Share | None = Field(None, description="a number from 0 (nothing changes) to 1 (all is made anew)")
    images: list[Picture] | None = Field(
        None, min_length=1, max_length=16, description=f"a list of 1 to 16 pictures, each {MEDIA}"
    )
    control: list[Control] | None = Field(None, min_length=1, max_length=4, description=CONTROL)
    ip_adapter: IpAdapter | Annotated[list[IpAdapter], Field(min_length=1, max_length=4)] | None = Field(
        None, description=IP_ADAPTER
    )
    upscale: Upscale | None = Field(
        None, description='an object like {"model": NAME, "scale": 2}, the scale above 1 and at most 8'
    )
    fit: Fit | None = Field(None, description="one of crop, stretch, pad")
    vae: ModelName | None = None
    textual_inversions: list[ModelName] | None = Field(
        None, min_length=1, max_length=8, description="a list of 1 to 8 names from GET /api/models"
    )
    preview: bool | None = Field(None, description="true or false")
    webhook_url: str | None = Field(
        None,
        max_length=2000,
        description="an http or https URL of at most 2000 characters, which is called when the job ends",
    )


class GenerateImage(Generate):
    type: Literal["image"]
    n: int | None = Field(None, ge=1, le=8, description="a whole number from 1 to 8")
    output_format: Literal["png", "webp", "jpeg"] | None = Field(None, description="one of png, webp, jpeg")


class GenerateVideo(Generate):
    type: Literal["video"]
    last_image: Picture | None = None
    video: Clip | None = None
    duration: int | None = Field(None, ge=1, le=60, description="a whole number of seconds from 1 to 60")
    num_frames: int | None = Field(
        None, ge=1, le=10_000, description="a whole number from 1 to 10000 that the model accepts"
    )
    output_format: Literal["mp4", "webm", "gif", "frames"] | None = Field(
        None, description="one of mp4, webm, gif, frames"
    )


StopText: TypeAlias = Annotated[str, Field(min_length=1, max_length=100, pattern=NO_NUL)]


class Chat(Strict):
    message: str = Field(min_length=1, max_length=32_000, pattern=NO_NUL, description="text of 1 to 32000 characters")
    stream: bool | None = Field(None, description="true or false")
    conversationId: str | None = Field(
        None,
        pattern=CONVERSATION_ID,
        description="1 to 64 letters, digits, _ or -, from an earlier reply",
    )
    system: str | None = Field(
        None, min_length=1, max_length=32_000, pattern=NO_NUL, description="text of 1 to 32000 characters"
    )
    model: ModelName | None = None
    max_tokens: int | None = Field(None, ge=1, description="a whole number of at least 1")
    temperature: float | None = Field(None, ge=0, le=2, description="a number from 0 to 2")
    top_p: float | None = Field(None, gt=0, le=1, description="a number above 0 and at most 1")
    top_k: int | None = Field(None, ge=0, lt=2**31, description="a whole number of at least 1, or 0 for all tokens")
    min_p: float | None = Field(None, ge=0, le=1, description="a number from 0 to 1")
    repetition_penalty: float | None = Field(None, gt=0, le=10, description="a number above 0 and at most 10")
    thinking: bool | Literal["low", "medium", "high"] | None = Field(
        None, description="true or false, or how much: low, medium or high"
    )
    seed: Seed | None = None
    stop: StopText | Annotated[list[StopText], Field(min_length=1, max_length=4)] | None = Field(
        None, description="a text of 1 to 100 characters, or a list of 1 to 4 such texts"
    )


KINDS: Mapping[str, type[GenerateImage] | type[GenerateVideo]] = {"image": GenerateImage, "video": GenerateVideo}


def read_generate(raw: Mapping[str, Any]) -> GenerateRequest:
    """Parses the body of POST /api/generate. Raises `BadRequest` with the first wrong field and what it must be."""
    if "type" not in raw:
        raise BadRequest("type is required: image or video.")
    kind = raw["type"]
    if not isinstance(kind, str) or kind not in KINDS:
        raise BadRequest("type must be image or video.")
    body = read_body(KINDS[kind], raw)
    values = body.model_dump(exclude_none=True)
    if body.loras is not None:
        values["loras"] = tuple((lora.name, lora.weight) for lora in body.loras)
    if body.images is not None:
        values["images"] = tuple(body.images)
    if body.textual_inversions is not None:
        values["textual_inversions"] = tuple(body.textual_inversions)
    if body.control is not None:
        values["control"] = wanted_controls(body.control)
    if body.ip_adapter is not None:
        values["ip_adapter"] = wanted_image_prompts(body.ip_adapter)
    if body.upscale is not None:
        values["upscale"] = WantedUpscale(model=body.upscale.model, scale=body.upscale.scale)
    return GenerateRequest(**values)


def read_chat(raw: Mapping[str, Any]) -> tuple[ChatInput, bool]:
    """Returns the message, and whether the reply is to be streamed. Raises `BadRequest`."""
    body = read_body(Chat, raw)
    effort = _effort(body.thinking)
    message = ChatInput(
        messages=(Message("user", body.message),),
        conversation_id=body.conversationId,
        system=body.system,
        model=body.model,
        prompt_options=PromptOptions(effort=effort, template_variables=SWITCHED_ON if body.thinking is True else {}),
        max_tokens=body.max_tokens,
        temperature=body.temperature,
        top_p=body.top_p,
        top_k=body.top_k,
        min_p=body.min_p,
        repetition_penalty=body.repetition_penalty,
        seed=body.seed,
        stop=(body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ()),
    )
    return message, bool(body.stream)


def _effort(thinking: bool | Literal["low", "medium", "high"] | None) -> Effort | None:
    if isinstance(thinking, bool):
        return None if thinking else "none"
    return thinking


def read_object(body: bytes) -> dict[str, Any]:
    """Returns the JSON object of a body in UTF-8. Raises `BadRequest`, `TooLarge`."""
    if body.count(b",") > MAX_COMMAS or body.count(b"[") + body.count(b"{") > MAX_BRACKETS:
        raise TooLarge("The body has too many values.")
    try:
        value = json.loads(body.decode("utf-8"), object_pairs_hook=_unique_fields, parse_constant=_reject_constant)
    except (ValueError, RecursionError):  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise BadRequest("The body must be valid JSON in UTF-8.") from None
    if not isinstance(value, dict):
        raise BadRequest("The body must be a JSON object.")
    return value


def _unique_fields(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise BadRequest("The body names a field twice.")
    return fields


def _reject_constant(_: str) -> NoReturn:
    raise BadRequest("The body must be valid JSON: NaN and Infinity are not.")


def read_body(model: type[Body], raw: Mapping[str, Any]) -> Body:
    """Validates a body against `model`. Raises `BadRequest` that names the first wrong field and what it must be."""
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        # pydantic's own texts are not used: they quote the input.
        faults = error.errors(include_url=False, include_context=False, include_input=False)
        raise _explain(model, faults[0]["type"], faults[0]["loc"]) from None


def _explain(model: type[BaseModel], fault: str, location: tuple[int | str, ...]) -> BadRequest:
    if not location or (fault == "extra_forbidden" and len(location) == 1):
        return _unknown(model, str(location[0]) if location else "")
    name = str(location[0])
    field = model.model_fields[name]
    must_be = field.description or _annotated_description(field.annotation)
    text = f"{name} is required: {must_be}." if fault == "missing" else f"{name} must be {must_be}."
    return BadRequest(text, param=name)


def _annotated_description(annotation: Any) -> str:
    """Returns the description inside `Annotated[…] | None`."""
    for part in getattr(annotation, "__args__", ()):
        for extra in getattr(part, "__metadata__", ()):
            if getattr(extra, "description", None):
                return str(extra.description)
    raise AssertionError("every field has a description")


def _unknown(model: type[BaseModel], name: str) -> BadRequest:
    if issubclass(model, Generate) and any(name in kind.model_fields for kind in KINDS.values()):
        return BadRequest(f"{name} does not belong to a job of this type.", param=name)
    return unknown_field(model.model_fields, name)


def unknown_field(known: Iterable[str], name: str) -> BadRequest:
    """Returns the error for a field that is not among `known`; it shows the name only if it looks like one."""
    shown = name if SHOWN_NAME.fullmatch(name) else None
    near = difflib.get_close_matches(shown or "", known, 1, 0.5)
    hint = f"; did you mean {near[0]}?" if near else f". Known fields: {', '.join(known)}."
    return BadRequest(f"Unknown field {shown or 'name'}{hint}", param=shown)
