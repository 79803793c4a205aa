"""Log probabilities of tokens, as the model itself gives them: before bias, penalties, temperature and cuts.

Every row is computed by itself, so that a chat gets the same values whatever else is in the batch.
"""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch import Tensor

Likeliest: TypeAlias = tuple[tuple[int, float], ...]  # (token, its log probability), likeliest first


def log_probabilities(logits: Tensor) -> Tensor:
    """Natural logarithms of the probabilities of all tokens. logits: (V,) float32. Returns (V,), a new tensor."""
    return logits.log_softmax(-1)


def likeliest(logprobs: Tensor, n: int) -> Likeliest:
    """The `n` likeliest tokens; of equally likely ones, those with the smaller numbers. logprobs: (V,)."""
    n = min(n, len(logprobs))
    if n == 0:
        return ()
    least = logprobs.topk(n).values[-1]
    tokens = (logprobs >= least).nonzero()[:, 0]  # more than n when several are as likely as the n-th
    ordered, order = torch.sort(logprobs[tokens], descending=True, stable=True)
    return tuple(zip(tokens[order][:n].tolist(), ordered[:n].tolist(), strict=True))
