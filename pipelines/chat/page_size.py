"""Computes how much memory a page of the paged KV cache takes, and how many pages fit into so many bytes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transformers.generation.continuous_batching.cache import group_layers_by_attn_type
from transformers.generation.continuous_batching.utils import find_head_dim, find_num_key_value_heads

from pipelines.chat.kv_size import PAGE_TOKENS

FLASH_PAGE_TOKENS = 256  # flash attention reads its cache in pages of this size
PREFILL_TOKENS = {"cpu": 256}  # most prompt tokens of one step: about a second on two cores at 135M parameters
PREFILL_TOKENS_GPU = 1024
TRASH_BLOCKS = 2  # the cache keeps two blocks that no sequence ever gets


def paged_cache_bytes(model: Any, n_tokens: Sequence[int]) -> int:
    """Bytes of a cache that holds sequences of these lengths, in tokens, at once."""
    page = page_of(model)
    return page.fixed_bytes + sum(math.ceil(n / page.tokens) + page.spare for n in n_tokens) * page.n_bytes


@dataclass(frozen=True, slots=True)
class Page:
    tokens: int
    n_bytes: int  # in all layers, with the page's share of the attention mask and of the index tensors
    fixed_bytes: int  # of a cache, besides its pages
    prefill_tokens: int  # most tokens of one step
    flash: bool
    spare: int  # pages of each sequence that may be partly empty


def page_of(model: Any) -> Page:
    config, itemsize = model.config.get_text_config(), model.dtype.itemsize
    flash = "flash" in (config._attn_implementation or "")
    tokens = FLASH_PAGE_TOKENS if flash else PAGE_TOKENS
    prefill = PREFILL_TOKENS.get(model.device.type, PREFILL_TOKENS_GPU)
    per_token = 2 * config.num_hidden_layers * find_num_key_value_heads(config) * find_head_dim(config) * itemsize
    mask_row = 0 if flash else prefill * itemsize
    fixed = TRASH_BLOCKS * tokens * per_token + prefill * (mask_row + 64)
    n_layers = [len(layers) for layers in group_layers_by_attn_type(config).values()]
    sector = math.ceil(math.lcm(*n_layers) / sum(n_layers))  # pages in a sector: each kind's blocks fill it
    return Page(tokens, tokens * (per_token + mask_row + 8), fixed, prefill, flash, spare=len(n_layers) * sector)


def blocks_within(cache_bytes: int, page: Page) -> int:
    n_blocks = (cache_bytes - page.fixed_bytes) // page.n_bytes
    if n_blocks < 1:
        least = page.fixed_bytes + page.n_bytes
        raise ValueError(f"a KV cache of {cache_bytes:,} bytes holds no page; {least:,} bytes hold one")
    return int(n_blocks)
