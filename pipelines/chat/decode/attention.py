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
UNKNOWN_FEATURES = ("position_bias", "head_mask", "chunk_size")

# (queries (R, heads, head_dim), keys and values of new tokens (R, kv_heads, head_dim), scale, softcap, sinks, pages) →
# like queries. softcap: a bound that scores approach (Gemma 2); 0: none. sinks: (heads,), of each head a score that
# takes part in the softmax and has no value (gpt-oss).
Kernel: TypeAlias = Callable[[Tensor, Tensor, Tensor, float, float, Tensor | None, Pages], Tensor]


class UnsupportedAttention(Exception):
    """A layer wants attention that the kernels for decode steps do not compute."""


def attend(query: Tensor, key: Tensor, value: Tensor, scale: float, softcap: float, sinks: Tensor | None) -> Tensor:
    """Write the new keys and values into the cache, and attend to what each row sees. Shapes as of `Kernel`."""
    pages = present_pages()
    return kernel_for(query.device)(query, key, value, scale, softcap, sinks, pages)


@functools.cache
def kernel_for(device: torch.device) -> Kernel:
    if not devices.has_triton(device):
        return attend_gathered
    from pipelines.chat.decode.triton_attention import attend_paged

    return attend_paged


def attend_gathered(
    query: Tensor, key: Tensor, value: Tensor, scale: float, softcap: float, sinks: Tensor | None, pages: Pages
) -> Tensor:
    """The kernel in plain torch. Reads up to `n_columns` pages of each row, and masks what its new token cannot see."""
    layer, n_rows = pages.take_layer(), pages.n_rows
    page_tokens = layer.page_tokens
    positions = pages.positions[:n_rows].long()
    slots = positions if layer.window is None else positions % layer.window
    column, offset = slots // page_tokens, slots % page_tokens
    page = layer.table.gather(0, column[None])[0].long()  # (R,)
    layer.keys[page, offset], layer.values[page, offset] = key, value
    read = layer.table[: pages.n_columns, :n_rows].t().long().contiguous()  # (R, columns)
    n_slots = read.shape[1] * page_tokens
    kv_heads, head_dim = key.shape[1:]
    shape = n_rows, n_slots, kv_heads, head_dim
    keys, values = (each[read].view(shape).transpose(1, 2) for each in (layer.keys, layer.values))
    slot = torch.arange(n_slots, device=query.device)
    seen = slot <= positions[:, None]  # (R, slots)
    if layer.window is not None:  # a slot holds the last token with this remainder, if there has been any
        seen = ((positions[:, None] - slot) % layer.window <= positions[:, None]) & (slot < layer.window)
    grouped = query.view(n_rows, kv_heads, -1, head_dim)  # the heads that share keys are rows of one matrix
    mixed = _mix(grouped, keys, values, seen[:, None, None], scale, softcap, sinks)
    return mixed.reshape(query.shape)


def _mix(
    query: Tensor, keys: Tensor, values: Tensor, seen: Tensor, scale: float, softcap: float, sinks: Tensor | None
) -> Tensor:
    """query: (R, kv_heads, group, head_dim). keys, values: (R, kv_heads, L, head_dim). seen: (R, 1, 1, L)."""
    if not softcap and sinks is None:
        return torch.nn.functional.scaled_dot_product_attention(query, keys, values, attn_mask=seen, scale=scale)
    scores = (query @ keys.transpose(-1, -2)).float() * scale
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    scores = scores.masked_fill(~seen, -torch.inf)
    if sinks is not None:
        sink = sinks.float().view(1, *query.shape[1:3], 1).expand(*scores.shape[:3], 1)
        scores = torch.cat([scores, sink], -1)
    weights = scores.softmax(-1)[..., : keys.shape[2]]
    return weights.to(values.dtype) @ values


@torch.library.custom_op("agentname::paged_decode", mutates_args=())
def _compiled_attend(
    query: Tensor, key: Tensor, value: Tensor, scale: float, softcap: float, sinks: Tensor | None
) -> Tensor:
    """`attend` as one operator that `torch.compile` does not look into.

    It declares no change because the cache is not among its arguments. The order of the layers is kept nevertheless:
    each takes what came out of the one before.
    """
    return attend(query, key, value, scale, softcap, sinks)


@_compiled_attend.register_fake
def _(query: Tensor, key: Tensor, value: Tensor, scale: float, softcap: float, sinks: Tensor | None) -> Tensor:
    return query.new_empty(query.shape)


def paged_decode_forward(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **features: Any,
) -> tuple[Tensor, None]:
    """As transformers calls attention: query (1, heads, R, head_dim), key and value (1, kv_heads, R, head_dim).

    Every token is a row of its own. The window of a layer is that of its allocator (`pages.Layer`), as in transformers'
    own paged attention. Returns (1, R, heads, head_dim). Raises `UnsupportedAttention`.
    """
    unknown = [name for name in UNKNOWN_FEATURES if features.get(name) is not None]
    if unknown or attention_mask is not None:
        raise UnsupportedAttention(f"{type(module).__name__} wants {', '.join(unknown) or 'a mask'}")
    if query.shape[-1] != key.shape[-1] or key.shape != value.shape or query.shape[1] % key.shape[1]:
        raise UnsupportedAttention(f"{type(module).__name__}: {query.shape}, {key.shape}, {value.shape}")
    sinks = getattr(module, "sinks", None) if s_aux is None else s_aux
    if sinks is not None and sinks.shape != query.shape[1:2]:
        raise UnsupportedAttention(f"{type(module).__name__}: sinks {sinks.shape} of {query.shape[1]} heads")
    rows = [each[0].transpose(0, 1).contiguous() for each in (query, key, value)]
    scale = query.shape[-1] ** -0.5 if scaling is None else float(scaling)
    call: Any = torch.ops.agentname.paged_decode if torch.compiler.is_compiling() else attend
    return call(*rows, scale, float(softcap or 0.0), sinks)[None], None


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
