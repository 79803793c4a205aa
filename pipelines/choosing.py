"""The choice of the next token of each chat by its own settings. Device thread only."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from pipelines.reply import Chat
from pipelines.sampling import draw, penalize, row_key


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
