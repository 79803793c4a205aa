"""The body of POST /v1/embeddings, and its conversion to the service's own type. Pure functions.

A field's `description` completes the sentence "FIELD must be …".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, WithJsonSchema

from pipelines.embedding_interface import TextOptions
from server.api.schemas import read_body
from server.api.shared.client_json import READABLE, UNREADABLE
from server.api.shared.field_types import Whole, token_ids
from server.api.strict_fields import NO_NUL, ModelName, Strict
from server.errors import BadRequest
from server.service.embeddings import MAX_TEXTS, MAX_TOKENS, EmbeddingInput

# Accepted and ignored: clients send these on their own, and they do not change the result.
IGNORED = frozenset({"user", "metadata", "safety_identifier", "request_id", "priority"})
INPUT = (
    f"a text, a list of token ids, or a list of 1 to {MAX_TEXTS} texts or of as many lists of token ids, with at most "
    f"{MAX_TOKENS} tokens in total; tokens are those of the model itself"
)
TRUNCATE = (
    'true to cut texts that are too long for the model at their end, "end" to say the same, or false, the default: '
    "such a text is an error"
)

_TOKENS = {"type": "array", "items": {"type": "integer", "minimum": 0}}
_SCHEMA = {
    "anyOf": [
        {"type": "string"},
        {"type": "array", "items": {"type": "string"}, "maxItems": MAX_TEXTS},
        _TOKENS,
        {"type": "array", "items": _TOKENS, "maxItems": MAX_TEXTS},
    ]
}

Name = Annotated[str, Field(min_length=1, max_length=200, pattern=NO_NUL)]


class Embedding(Strict):
    input: Annotated[Any, WithJsonSchema(_SCHEMA)] = Field(description=INPUT)
    model: ModelName | None = None
    encoding_format: Literal["float", "base64"] | None = Field(
        None, description="float, the default, or base64: float32 numbers, the lowest byte first"
    )
    dimensions: Annotated[Whole, Field(ge=1, le=65_536)] | None = Field(
        None,
        description="a whole number from 1 to the model's own: only so many first values of each vector are returned, "
        "scaled to length 1 again where the model's vectors have it. It is meant for models that were trained for it",
    )
    normalize: bool | None = Field(
        None, description="true or false: whether vectors are scaled to length 1; as the checkpoint says if not given"
    )
    prompt_name: Name | None = Field(
        None, description="the name of one of the model's own prompts, which is put before each text"
    )
    input_type: Name | None = Field(
        None,
        description="what the texts are, query or document: the model's prompt for them is put before each text, if "
        "it has one",
    )
    truncate: bool | Literal["end", "none", "END", "NONE"] | None = Field(None, description=TRUNCATE)
    truncate_prompt_tokens: Annotated[Whole, Field(ge=-1, le=-1)] | None = Field(
        None, description="-1, which means the same as truncate"
    )


@dataclass(frozen=True, slots=True)
class EmbeddingCall:
    """A request that was read: what is asked, and the form of the reply."""

    embedding_input: EmbeddingInput
    in_base64: bool


def read_embedding(raw: Mapping[str, Any]) -> EmbeddingCall:
    """Raises `BadRequest` with the field at fault and what it must be."""
    body = read_body(
        Embedding, {name: value for name, value in raw.items() if value is not None and name not in IGNORED}
    )
    if body.prompt_name is not None and body.input_type is not None:
        raise BadRequest("prompt_name and input_type both name a prompt. Give one of them.", param="input_type")
    inputs = _inputs(body.input)
    if body.prompt_name is not None and not all(isinstance(each, str) for each in inputs):
        raise BadRequest("prompt_name is for texts: tokens are read as they are.", param="prompt_name")
    truncate = body.truncate in (True, "end", "END") or body.truncate_prompt_tokens is not None
    return EmbeddingCall(
        EmbeddingInput(
            inputs=inputs,
            model=body.model or None,
            dimensions=body.dimensions,
            normalize=body.normalize,
            options=TextOptions(prompt_name=body.prompt_name, input_type=body.input_type, truncate=truncate),
        ),
        in_base64=body.encoding_format == "base64",
    )


def _inputs(given: object) -> Sequence[str | tuple[int, ...]]:
    match given:
        case str():
            return [_text(given)]
        case [first, *_] if type(first) in (int, float):
            return [_tokens(given)]
        case [str(), *_] if len(given) <= MAX_TEXTS:
            return [_text(each) for each in given]
        case [list(), *_] if len(given) <= MAX_TEXTS:
            return [_tokens(each) for each in given]
    raise _bad_input()


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise _bad_input()
    if not value:
        raise BadRequest("input must not be empty: each text needs at least one character.", param="input")
    if UNREADABLE.search(value):
        raise BadRequest(f"input must be {READABLE}.", param="input")
    return value


def _tokens(values: object) -> tuple[int, ...]:
    if (tokens := token_ids(values)) is None:
        raise _bad_input()
    return tokens


def _bad_input() -> BadRequest:
    return BadRequest(f"input must be {INPUT}.", param="input")
