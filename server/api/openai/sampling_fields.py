"""The fields that all routes under /v1 have which generate text: how the next token is chosen, and what ends a reply.

Pure functions. A field's `description` completes the sentence "FIELD must be …".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from server.api.shared.field_types import Lenient, StopText, TokenId, TokenKey, Whole
from server.api.strict_fields import ModelName
from server.errors import BadRequest
from server.jobs.request.generate_request import MAX_SEED

LIMIT = "a whole number of at least 1, or -1 for no limit"
PENALTY = "a number from -2 to 2"
LEAST_TOP_P = 1e-9  # what 0 means: the likeliest token alone


class StreamOptions(Lenient):
    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class StreamFields(Lenient):
    model: ModelName | Literal[""] | None = None
    stream: bool | None = Field(None, description="true or false")
    stream_options: StreamOptions | None = Field(None, description='an object like {"include_usage": true}')

    @property
    def with_usage(self) -> bool:
        """Whether a stream ends with the usage."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    @property
    def stream_warnings(self) -> Sequence[str]:
        if self.stream_options is not None and self.stream_options.continuous_usage_stats:
            return ["continuous_usage_stats: the usage is reported once, at the end."]
        return []


class SamplingFields(Lenient):
    min_tokens: Annotated[Whole, Field(ge=0)] | None = Field(None, description="a whole number of at least 0")
    temperature: float | None = Field(None, ge=0, le=2, description="a number from 0 to 2")
    top_p: float | None = Field(None, ge=0, le=1, description="a number from 0 to 1")
    top_k: Annotated[Whole, Field(ge=-1)] | None = Field(
        None, description="a whole number of at least 1, or 0 or -1 for all tokens"
    )
    min_p: float | None = Field(None, ge=0, le=1, description="a number from 0 to 1")
    do_sample: bool | None = Field(None, description="true or false: false is temperature 0")
    seed: Whole | None = Field(None, description="a whole number, or -1 for any seed")
    stop: StopText | Annotated[list[StopText], Field(max_length=16)] | None = Field(
        None, description="a text of at most 1000 characters, or a list of at most 16 such texts"
    )
    stop_token_ids: Annotated[list[TokenId], Field(max_length=64)] | None = Field(
        None, description="a list of at most 64 token ids"
    )
    ignore_eos: bool | None = Field(None, description="true or false: whether to go on behind the end of a reply")
    repetition_penalty: float | None = Field(None, gt=0, le=10, description="a number above 0 and at most 10")
    presence_penalty: float | None = Field(None, ge=-2, le=2, description=PENALTY)
    frequency_penalty: float | None = Field(None, ge=-2, le=2, description=PENALTY)
    logit_bias: dict[TokenKey, Annotated[float, Field(ge=-100, le=100)]] | None = Field(
        None,
        max_length=1024,
        description='an object of at most 1024 token ids and numbers from -100 to 100, like {"42": -100}',
    )
    n: Annotated[Whole, Field(ge=1, le=16)] | None = Field(None, description="a whole number from 1 to 16")


def read_sampling(body: SamplingFields, max_tokens: int | None) -> dict[str, Any]:
    """Returns these fields as those of `ChatInput`. Raises `BadRequest`."""
    return {
        "n_choices": body.n or 1,
        "max_tokens": max_tokens,
        "min_tokens": _min_tokens(body, max_tokens),
        "temperature": 0.0 if body.do_sample is False else body.temperature,
        "top_p": None if body.top_p is None else max(body.top_p, LEAST_TOP_P),
        "top_k": None if body.top_k is None else _top_k(body.top_k),
        "min_p": body.min_p,
        "seed": None if body.seed in (None, -1) else body.seed % (MAX_SEED + 1),
        "stop": _stop(body.stop),
        "stop_tokens": tuple(body.stop_token_ids or ()),
        "ignores_end": bool(body.ignore_eos),
        "repetition_penalty": body.repetition_penalty,
        "presence_penalty": body.presence_penalty or 0.0,
        "frequency_penalty": body.frequency_penalty or 0.0,
        "logit_bias": tuple({int(token): bias for token, bias in (body.logit_bias or {}).items()}.items()),
    }


def _min_tokens(body: SamplingFields, max_tokens: int | None) -> int:
    if body.min_tokens and max_tokens is not None and body.min_tokens > max_tokens:
        raise BadRequest("min_tokens must be at most max_tokens.", param="min_tokens")
    return body.min_tokens or 0


def _top_k(top_k: int) -> int:
    """Returns 0 for all tokens, also for more than any vocabulary has."""
    return top_k if 0 < top_k < 2**31 else 0


def _stop(stop: str | Sequence[str] | None) -> tuple[str, ...]:
    """Returns the texts that stop a reply; an empty one asks for nothing."""
    return tuple(text for text in ([stop] if isinstance(stop, str) else stop or ()) if text)
