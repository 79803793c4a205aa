"""Finds the likeliest tokens at each place, in an order that is the same on every device."""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch import Tensor

Likeliest: TypeAlias = tuple[tuple[int, float], ...]  # (token, its log probability), likeliest first


def likeliest_tokens(logprobs: Tensor, n: int) -> Tensor:
    """The `n` likeliest tokens; of equally likely ones, those with the smaller numbers.

    logprobs: (L, V) float32; 0 < n ≤ V. Returns (L, n) int64, likeliest first.
    """
    if n == 1:
        return logprobs.argmax(-1, keepdim=True)  # the first of several
    vocabulary = logprobs.shape[-1]
    values, tokens = logprobs.topk(n)
    least = values[:, -1:]
    # Which of the tokens as likely as the n-th are among these n is chance: replace them by those with small numbers.
    backwards = torch.arange(vocabulary, 0, -1, dtype=torch.int32, device=logprobs.device)
    equal = vocabulary - ((logprobs == least) * backwards).topk(n).values.long()  # `vocabulary` stands for no token
    found = torch.cat([tokens.masked_fill(values == least, vocabulary), equal], -1).sort(-1).values
    scores = logprobs.gather(-1, found.clamp(max=vocabulary - 1)).masked_fill(found == vocabulary, -torch.inf)
    order = scores.sort(dim=-1, descending=True, stable=True).indices[:, :n]
    return found.gather(-1, order).clamp(max=vocabulary - 1)  # rows of NaN have no likeliest tokens
