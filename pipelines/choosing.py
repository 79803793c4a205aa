"""One chat on its way, and the choice of the next token of each by its own settings. Device thread only."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pipelines.interface import ChatRequest
from pipelines.sampling import draw, penalize, row_key
from pipelines.stopping import ReplyText


@dataclass(slots=True)
class Chat:
    """One request on its way."""

    request: ChatRequest
    prompt: list[int]
    text: ReplyText
    n_units: int = 0  # parts of the cache set aside for it
    tokens: list[int] = field(default_factory=list)  # of the reply so far
    counts: Counter[int] = field(default_factory=Counter)  # how often each token is in it
    broken: bool = False  # its logits were not numbers
    refused: bool = False  # it ran out of memory when it ran alone

    @property
    def n_tokens(self) -> int:
        return len(self.tokens)

    @property
    def longest_tokens(self) -> int:
        """Of prompt and reply, when it is as long as it may become."""
        return len(self.prompt) + self.request.max_tokens


def choose(chats: Sequence[Chat], logits: Tensor) -> None:
    """Write into each row what makes its argmax the next token. logits: (N, V) float32, one row for each of `chats`."""
    for chat, sound in zip(chats, logits.amax(-1).isfinite().tolist(), strict=True):
        chat.broken = not sound
    for row, chat in enumerate(chats):
        r = chat.request
        if r.repetition_penalty != 1.0 or r.presence_penalty or r.frequency_penalty:
            logits[row] = penalize(
                logits[row],
                chat.prompt,
                chat.counts,
                repetition=r.repetition_penalty,
                presence=r.presence_penalty,
                frequency=r.frequency_penalty,
            )
    sampled = [(row, chat) for row, chat in enumerate(chats) if chat.request.temperature > 0 and not chat.broken]
    if not sampled:
        return
    tensor = functools.partial(torch.tensor, device=logits.device)
    rows = tensor([row for row, _ in sampled])
    requests = [chat.request for _, chat in sampled]
    tokens = draw(
        logits[rows],
        tensor([r.temperature for r in requests]),
        tensor([r.top_k for r in requests]),
        tensor([r.top_p for r in requests], dtype=torch.float64),
        tensor([row_key(chat.request.seed, chat.n_tokens) for _, chat in sampled]),
    )
    logits[rows, tokens] = torch.inf
