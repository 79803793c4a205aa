"""Attention of decode steps over the paged KV cache, registered with transformers under a name of its own.

Two kernels do the same. The one in Triton reads each row's pages in place and needs no bound on their number, so that
one CUDA graph serves rows of all lengths. The one in plain torch gathers them first; it runs on every device.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from torch import Tensor
from transformers import AttentionInterface

from pipelines import device as devices
from pipelines.chat.decode.pages import Pages, present_pages

NAME = "paged_decode"
# Arguments of attention functions that change what is computed and that no kernel here knows: (name, absent value).
UNKNOWN_FEATURES = ("softcap", "s_aux", "sinks", "sliding_window", "position_bias", "head_mask", "chunk_size")

# (queries (R, heads, head_dim), keys and values of the new tokens (R, kv_heads, head_dim), scale, pages) → like queries
Kernel: TypeAlias = Callable[[Tensor, Tensor, Tensor, float, Pages], Tensor]


class UnsupportedAttention(Exception):
    """A layer wants attention that the kernels for decode steps do not compute."""


def attend(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """Write the new keys and values into the cache, and attend to all of each row. Shapes as of `Kernel`."""
    pages = present_pages()
    return kernel_for(query.device)(query, key, value, scale, pages)


@functools.cache
def kernel_for(device: torch.device) -> Kernel:
    if not devices.has_triton(device):
        return attend_gathered
    from pipelines.chat.decode.triton_attention import attend_paged

    return attend_paged


def attend_gathered(query: Tensor, key: Tensor, value: Tensor, scale: float, pages: Pages) -> Tensor:
    """The kernel in plain torch. Reads `n_columns` pages of every row, and masks what lies behind its new token."""
    keys, values = pages.take_layer()
    n_rows, n_columns, page_tokens = pages.n_rows, pages.n_columns, pages.page_tokens
    positions = pages.positions[:n_rows].long()
    column, offset = positions // page_tokens, positions % page_tokens
    page = pages.table.gather(0, column[None])[0].long()  # (R,)
    keys[page, offset], values[page, offset] = key, value
    read = pages.table[:n_columns, :n_rows].t().long().contiguous()  # (R, columns)
    kv_heads, head_dim = key.shape[1:]
    shape = n_rows, n_columns * page_tokens, kv_heads, head_dim
    all_keys, all_values = (each[read].view(shape).transpose(1, 2) for each in (keys, values))
    seen = torch.arange(n_columns * page_tokens, device=query.device) <= positions[:, None]  # (R, L)
    grouped = query.view(n_rows, kv_heads, -1, head_dim)  # the heads that share keys are rows of one matrix
    mixed = torch.nn.functional.scaled_dot_product_attention(
        grouped, all_keys, all_values, attn_mask=seen[:, None, None], scale=scale
    )
    return mixed.reshape(query.shape)


@torch.library.custom_op("agentname::paged_decode", mutates_args=())
def _compiled_attend(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """`attend` as one operator that `torch.compile` does not look into.

    It declares no change because the cache is not among its arguments. The order of the layers is kept nevertheless:
    each takes what came out of the one before.
    """
    return attend(query, key, value, scale)


@_compiled_attend.register_fake
def _(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    return query.new_empty(query.shape)


def paged_decode_forward(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **features: Any,
) -> tuple[Tensor, None]:
    """As transformers calls attention: query (1, heads, R, head_dim), key and value (1, kv_heads, R, head_dim).

    Every token is a row of its own. Returns (1, R, heads, head_dim). Raises `UnsupportedAttention`.
    """
    unknown = [name for name in UNKNOWN_FEATURES if features.get(name) is not None]
    if unknown or attention_mask is not None or getattr(module, "sinks", None) is not None:
        raise UnsupportedAttention(f"{type(module).__name__} wants {', '.join(unknown) or 'a mask or sinks'}")
    if query.shape[-1] != key.shape[-1] or key.shape != value.shape or query.shape[1] % key.shape[1]:
        raise UnsupportedAttention(f"{type(module).__name__}: {query.shape}, {key.shape}, {value.shape}")
    rows = [each[0].transpose(0, 1).contiguous() for each in (query, key, value)]
    scale = query.shape[-1] ** -0.5 if scaling is None else float(scaling)
    call: Any = torch.ops.agentname.paged_decode if torch.compiler.is_compiling() else attend
    return call(*rows, scale)[None], None


@contextmanager
def paged_decode(config: Any) -> Iterator[None]:
    """Layers of the model with this config (`get_text_config`) attend by `paged_decode_forward` in this block."""
    before = config._attn_implementation
    config._attn_implementation = NAME
    try:
        yield
    finally:
        config._attn_implementation = before


AttentionInterface.register(NAME, paged_decode_forward)  # no mask function of this name: transformers makes no mask
