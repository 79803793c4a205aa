"""A chat as far as the choice of its tokens is concerned: its request and its tokens, without text."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from pipelines.chat_interface import ChatRequest, Prompt

PROMPT = [1, 7, 7, 30]
END_TOKENS = (2, 5)


@dataclass(eq=False)
class SampledChat:
    """What the choice of tokens reads of a chat, and what the one row by row (`row_sampling`) writes."""

    request: ChatRequest
    tokens: list[int] = field(default_factory=list)
    prompt: list[int] = field(default_factory=lambda: list(PROMPT))
    end_tokens: frozenset[int] = frozenset(END_TOKENS)
    forced_token: int | None = None
    constrained: None = None  # it has no grammar
    last_logprobs: tuple[float, tuple[tuple[int, float], ...]] | None = None

    @property
    def id(self) -> str:
        return self.request.id

    @property
    def n_tokens(self) -> int:
        return len(self.tokens)

    @property
    def counts(self) -> Counter[int]:
        return Counter(self.tokens)


def chat(*tokens: int, id: str = "c", forced_token: int | None = None, **settings: Any) -> SampledChat:
    """A chat with these tokens as its reply so far. settings: of its request."""
    request = ChatRequest(id=id, prompt=Prompt(tokens=tuple(PROMPT)), **settings)
    return SampledChat(request, list(tokens), forced_token=forced_token)
