"""Changes the logits of one chat as its request says, before its next token is chosen. Pure functions over tensors.

The order: logit bias, penalties, end tokens while the reply is too short, and last a forced token, which wins over all.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor

from pipelines.chat.sequence import ChatSequence


def adjust(chat: ChatSequence, row: int, logits: Tensor) -> None:
    """Change one row of `logits` in place; nothing is done for settings that the request left alone. logits: (N, V)."""
    r = chat.request
    if r.logit_bias:
        add_bias(logits[row], r.logit_bias)
    if r.repetition_penalty != 1.0 or r.presence_penalty or r.frequency_penalty:
        logits[row] = penalize(
            logits[row],
            chat.prompt,
            chat.counts,
            repetition=r.repetition_penalty,
            presence=r.presence_penalty,
            frequency=r.frequency_penalty,
        )
    if chat.n_tokens < r.min_tokens:
        suppress(logits[row], chat.end_tokens)
    if chat.forced_token is not None:
        logits[row, chat.forced_token] = torch.inf


def add_bias(logits: Tensor, bias: Sequence[tuple[int, float]]) -> None:
    """Add to the logits of some tokens in place. Tokens that the model does not have are ignored. logits: (V,)."""
    known = [(token, value) for token, value in bias if 0 <= token < len(logits)]
    tokens = torch.tensor([token for token, _ in known], dtype=torch.long, device=logits.device)
    values = torch.tensor([value for _, value in known], dtype=logits.dtype, device=logits.device)
    logits.index_add_(0, tokens, values)


def penalize(
    logits: Tensor,
    prompt: Sequence[int],
    reply: Mapping[int, int],
    *,
    repetition: float = 1.0,
    presence: float = 0.0,
    frequency: float = 0.0,
) -> Tensor:
    """Return logits in which tokens that have occurred already are less likely.

    logits: (V,); prompt: its tokens; reply: occurrences of each token in the reply so far. Returns (V,), a new tensor.
    repetition divides positive and multiplies negative logits of tokens in prompt and reply (Keskar et al. 2019,
    arXiv:1909.05858). presence and frequency are subtracted for tokens of the reply alone, as OpenAI's API defines
    them.
    """
    penalized = logits.clone()
    if repetition != 1.0:
        seen = torch.tensor(sorted({*prompt, *reply}), dtype=torch.long, device=logits.device)
        scores = penalized[seen]
        penalized[seen] = torch.where(scores < 0, scores * repetition, scores / repetition)
    if reply and (presence or frequency):
        tokens = torch.tensor(list(reply), dtype=torch.long, device=logits.device)
        counts = torch.tensor(list(reply.values()), dtype=logits.dtype, device=logits.device)
        penalized[tokens] -= presence + frequency * counts
    return penalized


def suppress(logits: Tensor, tokens: Collection[int]) -> None:
    """Make tokens impossible, in place. logits: (V,)."""
    known = [token for token in tokens if 0 <= token < len(logits)]
    logits[torch.tensor(known, dtype=torch.long, device=logits.device)] = -torch.inf
