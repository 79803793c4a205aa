"""Attention over transformers' paged cache that keeps the soft cap of a model's scores (Gemma 2).

transformers' own paged attention leaves it out, so that such a model would compute something else in a batch.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.integrations.eager_paged import eager_paged_attention_forward
from transformers.integrations.sdpa_attention import repeat_kv

NAME = "paged|eager"  # transformers' name for it; models whose scores are capped have no other


def paged_attention_forward(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    softcap: float | None = None,
    **features: Any,
) -> tuple[Tensor, Tensor]:
    """As transformers calls attention: query (1, heads, T, head_dim), key and value (1, kv_heads, T, head_dim)."""
    if softcap is None or features.get("cache") is None or getattr(module, "sinks", None) is not None:
        mixed: tuple[Tensor, Tensor] = eager_paged_attention_forward(
            module, query, key, value, attention_mask, scaling, softcap=softcap, **features
        )
        return mixed
    cache = features.pop("cache")
    key, value = cache.update(key_states=key, value_states=value, layer_idx=module.layer_idx, kwargs=features)
    key, value = (repeat_kv(each, query.shape[1] // each.shape[1]) for each in (key, value))
    scores = torch.tanh(query @ key.transpose(2, 3) * scaling / softcap) * softcap
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = scores.softmax(-1, dtype=torch.float32).to(query.dtype)
    return (weights @ value).transpose(1, 2).contiguous(), weights


AttentionInterface.register(NAME, paged_attention_forward)
