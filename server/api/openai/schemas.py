"""OpenAI's request bodies, and their conversion to the service's own types. Pure functions.

A field that this server cannot honor is rejected by name. Only fields without any effect on the result are ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field

from pipelines.interface import Message
from server.api.schemas import NO_NUL, ModelName, Prompt, Seed, StopText, Strict, read_body
from server.errors import BadRequest
from server.jobs.request import GenerateRequest
from server.service.chat_turn import ChatInput

# Accepted and ignored: clients send these on their own, and they do not change the result.
IGNORED = frozenset({"user", "metadata", "safety_identifier", "prompt_cache_key", "prompt_cache_retention"})
# Accepted with these values only, which ask for nothing; any other value asks for something this server cannot do.
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "n": (1,), "logprobs": (False,), "top_logprobs": (0,), "tools": ([],), "tool_choice": ("none", "auto"),
    "functions": ([],), "function_call": ("none", "auto"), "parallel_tool_calls": (True, False), "logit_bias": ({},),
    "store": (False,), "service_tier": ("auto", "default"), "response_format": ({"type": "text"},),
    "modalities": (["text"],),
}  # fmt: skip
NEUTRAL_IMAGE: Mapping[str, tuple[Any, ...]] = {
    "quality": ("auto", "standard"), "background": ("auto", "opaque"), "moderation": ("auto", "low"),
    "stream": (False,), "output_compression": (100,), "partial_images": (0,),
}  # fmt: skip

SIZE = r"^([1-9][0-9]{1,4}x[1-9][0-9]{1,4}|auto)$"


class TextPart(Strict):
    type: Literal["text"]
    text: str = Field(pattern=NO_NUL)


class InputMessage(Strict):
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]
    name: str | None = None
    refusal: None = None


class StreamOptions(Strict):
    include_usage: bool = False


Stop: TypeAlias = StopText | Annotated[list[StopText], Field(min_length=1, max_length=4)]


class ChatCompletion(Strict):
    messages: list[InputMessage] = Field(
        min_length=1,
        max_length=1000,
        description="a list of 1 to 1000 messages with role system, developer, user or assistant "
        "and content that is text or text parts",
    )
    model: ModelName | None = None
    stream: bool | None = Field(None, description="true or false")
    stream_options: StreamOptions | None = Field(None, description='{"include_usage": true or false}')
    max_tokens: int | None = Field(None, ge=1, le=32_768, description="a whole number from 1 to 32768")
    max_completion_tokens: int | None = Field(None, ge=1, le=32_768, description="a whole number from 1 to 32768")
    temperature: float | None = Field(None, ge=0, le=2, description="a number from 0 to 2")
    top_p: float | None = Field(None, gt=0, le=1, description="a number above 0 and at most 1")
    presence_penalty: float | None = Field(None, ge=-2, le=2, description="a number from -2 to 2")
    frequency_penalty: float | None = Field(None, ge=-2, le=2, description="a number from -2 to 2")
    seed: Seed | None = None
    stop: Stop | None = Field(None, description="a text of 1 to 100 characters, or a list of 1 to 4 such texts")


class ImageGeneration(Strict):
    prompt: Prompt
    model: ModelName | None = None
    n: int | None = Field(None, ge=1, le=8, description="a whole number from 1 to 8")
    size: str | None = Field(None, pattern=SIZE, description="WIDTHxHEIGHT in pixels that the model accepts, or auto")
    response_format: Literal["url", "b64_json"] | None = Field(None, description="url or b64_json")
    output_format: Literal["png", "webp", "jpeg"] | None = Field(None, description="one of png, webp, jpeg")
    negative_prompt: str | None = Field(
        None, max_length=4000, pattern=NO_NUL, description="text of at most 4000 characters"
    )
    steps: int | None = Field(None, ge=1, le=1000, description="a whole number from 1 to 1000")
    guidance_scale: float | None = Field(None, ge=0, le=100, description="a number from 0 to 100")
    seed: Seed | None = None


class VideoCreation(Strict):
    prompt: Prompt
    model: ModelName | None = None
    seconds: str | None = Field(
        None, pattern=r"^[1-9][0-9]?$", description="a whole number of seconds from 1 to 60, as text"
    )
    size: str | None = Field(None, pattern=SIZE, description="WIDTHxHEIGHT in pixels that the model accepts, or auto")


def read_chat(raw: Mapping[str, Any]) -> tuple[ChatInput, ChatCompletion]:
    """Returns the message for the service, and the parsed body. Raises `BadRequest`."""
    body = read_body(ChatCompletion, _supported(raw, NEUTRAL))
    if body.max_tokens is not None and body.max_completion_tokens is not None:
        raise BadRequest("max_tokens and max_completion_tokens are the same: send one of them.")
    if body.stream_options is not None and not body.stream:
        raise BadRequest("stream_options requires stream: true.")
    message = ChatInput(
        messages=tuple(_message(message) for message in body.messages),
        stored=False,
        model=body.model,
        max_tokens=body.max_completion_tokens or body.max_tokens,
        temperature=body.temperature,
        top_p=body.top_p,
        seed=body.seed,
        stop=(body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ()),
        presence_penalty=body.presence_penalty or 0.0,
        frequency_penalty=body.frequency_penalty or 0.0,
    )
    return message, body


def _message(turn: InputMessage) -> Message:
    content = turn.content if isinstance(turn.content, str) else "".join(part.text for part in turn.content)
    return Message("system" if turn.role == "developer" else turn.role, content)


def read_image(raw: Mapping[str, Any]) -> tuple[GenerateRequest, Literal["url", "b64_json"] | None]:
    """Returns the request for the service, and the format in which the client wants the images. Raises `BadRequest`."""
    body = read_body(ImageGeneration, _supported(raw, NEUTRAL_IMAGE))
    values = body.model_dump(exclude_none=True, exclude={"size", "response_format"})
    width, height = _sides(body.size)
    return GenerateRequest(type="image", width=width, height=height, **values), body.response_format


def read_video(raw: Mapping[str, Any]) -> GenerateRequest:
    """Returns the request for the service. Raises `BadRequest`."""
    if raw.get("input_reference") is not None:
        raise BadRequest("input_reference is not supported: videos are generated from text only.")
    seconds = raw.get("seconds")
    body = read_body(VideoCreation, {**raw, "seconds": str(seconds)} if type(seconds) is int else dict(raw))
    duration = None if body.seconds is None else int(body.seconds)
    if duration is not None and duration > 60:
        raise BadRequest("seconds must be a whole number of seconds from 1 to 60, as text.")
    width, height = _sides(body.size)
    return GenerateRequest(
        type="video", prompt=body.prompt, model=body.model, duration=duration, width=width, height=height
    )


def _sides(size: str | None) -> tuple[int, int] | tuple[None, None]:
    if size is None or size == "auto":
        return None, None
    width, height = size.split("x")
    return int(width), int(height)


def _supported(raw: Mapping[str, Any], neutral: Mapping[str, tuple[Any, ...]]) -> dict[str, Any]:
    """Returns the fields without the ignored and the neutral ones. Raises `BadRequest` for an unsupported value."""
    fields = {name: value for name, value in raw.items() if value is not None and name not in IGNORED}
    for name, values in neutral.items():
        if name in fields and not any(type(fields[name]) is type(value) and fields[name] == value for value in values):
            only = f" Only {values[0]!r} is." if name == "n" else ""
            raise BadRequest(f"{name} is not supported by this server.{only} Leave it out.")
        fields.pop(name, None)
    return fields
