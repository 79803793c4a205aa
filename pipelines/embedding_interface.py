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
