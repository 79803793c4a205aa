"""Makes one vector of the hidden states of a text's tokens. Pure functions of tensors.

The modes are those of sentence-transformers. `hidden`: (B, T, D) float32; `mask`: (B, T), 1 where a token counts. Rows
are padded at their ends. A row without a token that counts gives zeros, except in the modes that pick one token.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TypeAlias

import torch
from torch import Tensor

Pool: TypeAlias = Callable[[Tensor, Tensor, Tensor], Tensor]
SMALLEST = 1e-9  # divisor of an empty row


def _first(hidden: Tensor, mask: Tensor, _: Tensor) -> Tensor:
    return _pick(hidden, mask.argmax(dim=1))


def _last(hidden: Tensor, mask: Tensor, places: Tensor) -> Tensor:
    return _pick(hidden, (mask * places).argmax(dim=1))


def _mean(hidden: Tensor, mask: Tensor, _: Tensor) -> Tensor:
    return _weighted(hidden, mask) / mask.sum(dim=1, keepdim=True).clamp(min=SMALLEST)


def _mean_sqrt_len(hidden: Tensor, mask: Tensor, _: Tensor) -> Tensor:
    return _weighted(hidden, mask) / mask.sum(dim=1, keepdim=True).clamp(min=SMALLEST).sqrt()


def _weighted_mean(hidden: Tensor, mask: Tensor, places: Tensor) -> Tensor:
    """Later tokens weigh more; a prompt that is left out still counts as places before them."""
    weights = mask * places
    return _weighted(hidden, weights) / weights.sum(dim=1, keepdim=True).clamp(min=SMALLEST)


def _max(hidden: Tensor, mask: Tensor, _: Tensor) -> Tensor:
    highest = hidden.masked_fill(mask.unsqueeze(-1) == 0, float("-inf")).amax(dim=1)
    return highest.masked_fill(mask.sum(dim=1, keepdim=True) == 0, 0.0)


def _weighted(hidden: Tensor, weights: Tensor) -> Tensor:
    return torch.einsum("btd,bt->bd", hidden, weights)


def _pick(hidden: Tensor, index: Tensor) -> Tensor:
    return hidden[torch.arange(len(hidden), device=hidden.device), index]


POOLS: Mapping[str, Pool] = MappingProxyType({
    "cls": _first,
    "max": _max,
    "mean": _mean,
    "mean_sqrt_len_tokens": _mean_sqrt_len,
    "weightedmean": _weighted_mean,
    "lasttoken": _last,
})  # fmt: skip


def pool(modes: Sequence[str], hidden: Tensor, mask: Tensor) -> Tensor:
    """Returns (B, D * number of modes): the vectors of the modes, side by side in the order given."""
    mask = mask.to(hidden.dtype)
    places = torch.arange(1, hidden.shape[1] + 1, device=hidden.device, dtype=hidden.dtype)
    return torch.cat([POOLS[mode](hidden, mask, places) for mode in modes], dim=-1)
