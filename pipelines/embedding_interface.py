"""Defines what an embedding model is asked. Plain data, no torch; `pipelines.interface` has what all models share."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TextTokens:
    """One text as the model reads it, special tokens included."""

    tokens: tuple[int, ...]  # at least one
    n_prompt_tokens: int = 0  # of the instruction at its beginning, for models that leave it out of the pooling


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingRequest:
    """Asks for one vector for each of several texts."""

    id: str  # unique in the process: "<job id>/0"
    owner: str = ""
    texts: tuple[TextTokens, ...]
    dimensions: int | None = None  # keep only the first values of each vector, for models trained to allow that
    normalize: bool | None = None  # to length 1; None: as the checkpoint says

    @property
    def n_tokens(self) -> int:
        return sum(len(text.tokens) for text in self.texts)


@dataclass(frozen=True, slots=True, kw_only=True)
class TextOptions:
    """How texts become tokens."""

    prompt_name: str | None = None  # of the checkpoint's own prompts, which goes before each text
    input_type: str | None = None  # what the texts are, "query" or "document": names a prompt where there is one
    truncate: bool = False  # cut texts that are too long at their end, instead of refusing them
    max_tokens: int | None = None  # of all texts together


class TextRefused(Exception):
    """The texts cannot be embedded by this model. The message is for the client."""

    def __init__(self, message: str, field: str = "input", detail: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.field = field  # of the request
        self.detail = detail  # for the log
