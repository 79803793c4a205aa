"""Attention of one new token per row over pages of keys and values, in Triton. Imported where Triton is installed.

Flash decoding (Dao et al., 2023): a row's keys are divided among programs that run at the same time, each with the
softmax of its own part; a second kernel puts the parts together. Rows that are read at the same time fill the device by
themselves, so the more rows, the fewer parts. Query heads that share keys are rows of one matrix product.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from pipelines.chat.decode.pages import Pages

PROGRAMS = 1024  # wanted at the same time: some for each of an H100's 132 multiprocessors
MAX_PARTS = 32
KEYS = 64  # read at a time by one program, unless that is more than `MAX_BLOCK_BYTES`
MAX_BLOCK_BYTES = 16 << 10  # of keys; values take as much, and loads ahead of their use multiply both
MIN_KEYS = 32
MIN_MATRIX = 16  # smallest side of a matrix product in Triton


@triton.jit  # type: ignore[untyped-decorator]  # triton carries no types
def _attend_part(  # type: ignore[no-untyped-def]
    query,  # (R, kv_heads * GROUP, DIM), like the next three
    key,  # (R, kv_heads, DIM), of the new tokens
    value,
    output,  # written when there is one part
    keys,  # (pages, PAGE, kv_heads, DIM)
    values,
    table,  # (columns, rows)
    positions,  # (rows,)
    mixed,  # (R, heads, PARTS, DIM) float32: sums of values, weighted by exp(score - highest score)
    stats,  # (R, heads, PARTS, 2) float32: highest score, sum of weights
    sinks,  # (heads,) scores without a value; any tensor when HAS_SINKS is False
    scale,
    softcap,
    window,
    table_stride,
    page_stride,
    token_stride,
    head_stride,
    PAGE: tl.constexpr,
    GROUP: tl.constexpr,
    GROUP_PAD: tl.constexpr,
    DIM: tl.constexpr,
    DIM_PAD: tl.constexpr,
    PARTS: tl.constexpr,
    BLOCK: tl.constexpr,
    HAS_WINDOW: tl.constexpr,  # the pages are a ring of `window` slots, and token p is in slot p % window
    HAS_SOFTCAP: tl.constexpr,
    HAS_SINKS: tl.constexpr,
):
    row, kv_head, part = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    kv_heads = tl.num_programs(1)
    position = tl.load(positions + row)
    length = position + 1
    first = 0  # token that the row sees
    if HAS_WINDOW:
        first = tl.maximum(length - window, 0)
    per_part = tl.cdiv(tl.cdiv(length - first, PARTS), BLOCK) * BLOCK
    begin = first + part * per_part
    end = tl.minimum(begin + per_part, length)

    dims = tl.arange(0, DIM_PAD)
    in_dims = dims < DIM
    heads = tl.arange(0, GROUP_PAD)
    first_head = (row * kv_heads + kv_head) * GROUP
    in_query = (heads < GROUP)[:, None] & in_dims[None, :]
    at_query = (first_head + heads)[:, None] * DIM + dims[None, :]
    q = tl.load(query + at_query, mask=in_query, other=0.0)
    at_new = (row * kv_heads + kv_head) * DIM + dims
    new_key = tl.load(key + at_new, mask=in_dims, other=0.0)
    new_value = tl.load(value + at_new, mask=in_dims, other=0.0)

    highest = tl.full((GROUP_PAD,), float("-inf"), tl.float32)
    total = tl.zeros((GROUP_PAD,), tl.float32)
    sums = tl.zeros((GROUP_PAD, DIM_PAD), tl.float32)
    for start in range(begin, end, BLOCK):
        at = start + tl.arange(0, BLOCK)
        seen = at < end
        cached = seen & (at < position)
        slot = at
        if HAS_WINDOW:
            slot = at % window
        page = tl.load(table + (slot // PAGE) * table_stride + row, mask=cached, other=0).to(tl.int64)
        place = page * page_stride + (slot % PAGE) * token_stride + kv_head * head_stride
        in_cache = cached[:, None] & in_dims[None, :]
        is_new = (at == position)[:, None]  # not in the cache yet: another program may be about to write it
        k = tl.load(keys + place[:, None] + dims[None, :], mask=in_cache, other=0.0)
        k = tl.where(is_new, new_key[None, :], k)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
        if HAS_SOFTCAP:
            scores = softcap - 2 * softcap / (tl.exp(scores * (2 / softcap)) + 1)  # softcap * tanh(scores / softcap)
        scores = tl.where(seen[None, :], scores, float("-inf"))
        now_highest = tl.maximum(highest, tl.max(scores, 1))
        weights = tl.exp(scores - now_highest[:, None])
        shrink = tl.exp(highest - now_highest)
        v = tl.load(values + place[:, None] + dims[None, :], mask=in_cache, other=0.0)
        v = tl.where(is_new, new_value[None, :], v)
        sums = sums * shrink[:, None] + tl.dot(weights.to(v.dtype), v, input_precision="ieee")
        total = total * shrink + tl.sum(weights, 1)
        highest = now_highest

    if (begin <= position) & (position < end):  # one part of each row and head
        new_slot = position
        if HAS_WINDOW:  # of the token that has just left the window: no program reads it
            new_slot = position % window
        page = tl.load(table + (new_slot // PAGE) * table_stride + row).to(tl.int64)
        place = page * page_stride + (new_slot % PAGE) * token_stride + kv_head * head_stride
        tl.store(keys + place + dims, new_key, mask=in_dims)
        tl.store(values + place + dims, new_value, mask=in_dims)
    if PARTS == 1:
        if HAS_SINKS:
            sink = tl.load(sinks + kv_head * GROUP + heads, mask=heads < GROUP, other=0.0).to(tl.float32)
            with_sink = tl.maximum(highest, sink)
            shrink = tl.exp(highest - with_sink)
            sums = sums * shrink[:, None]
            total = total * shrink + tl.exp(sink - with_sink)
        result = sums / total[:, None]
        tl.store(output + at_query, result.to(output.dtype.element_ty), mask=in_query)
    else:
        at_part = (first_head + heads) * PARTS + part
        tl.store(mixed + at_part[:, None] * DIM + dims[None, :], sums, mask=in_query)
        tl.store(stats + at_part * 2, highest, mask=heads < GROUP)
        tl.store(stats + at_part * 2 + 1, total, mask=heads < GROUP)


@triton.jit  # type: ignore[untyped-decorator]  # triton carries no types
def _join_parts(  # type: ignore[no-untyped-def]
    mixed,
    stats,
    sinks,
    output,
    heads,  # of one row
    DIM: tl.constexpr,
    DIM_PAD: tl.constexpr,
    PARTS: tl.constexpr,
    HAS_SINKS: tl.constexpr,
):
    head = tl.program_id(0)  # of all rows
    parts = head * PARTS + tl.arange(0, PARTS)
    dims = tl.arange(0, DIM_PAD)
    of_parts = tl.load(stats + parts * 2)  # -inf for a part without keys, which then weighs nothing
    highest = tl.max(of_parts, 0)
    total = 0.0
    if HAS_SINKS:
        sink = tl.load(sinks + head % heads).to(tl.float32)
        highest = tl.maximum(highest, sink)
        total = tl.exp(sink - highest)
    weights = tl.exp(of_parts - highest)
    total += tl.sum(weights * tl.load(stats + parts * 2 + 1), 0)
    sums = tl.load(mixed + parts[:, None] * DIM + dims[None, :], mask=(dims < DIM)[None, :], other=0.0)
    result = tl.sum(sums * weights[:, None], 0) / total
    tl.store(output + head * DIM + dims, result.to(output.dtype.element_ty), mask=dims < DIM)


def attend_paged(
    query: Tensor, key: Tensor, value: Tensor, scale: float, softcap: float, sinks: Tensor | None, pages: Pages
) -> Tensor:
    """See `attention.Kernel`. Queries, keys and values are contiguous."""
    layer = pages.take_layer()
    n_rows, heads, dim = query.shape
    kv_heads = key.shape[1]
    group = heads // kv_heads
    dim_pad = max(MIN_MATRIX, triton.next_power_of_2(dim))
    block = max(MIN_KEYS, min(KEYS, MAX_BLOCK_BYTES // (dim_pad * query.element_size())))
    parts = min(MAX_PARTS, triton.next_power_of_2(triton.cdiv(PROGRAMS, n_rows * kv_heads)))
    if layer.window is not None:  # more would have nothing to read
        parts = min(parts, triton.next_power_of_2(triton.cdiv(layer.window, block)))
    output = torch.empty_like(query)
    n_parts = n_rows * heads * parts if parts > 1 else 0
    mixed = torch.empty(n_parts * dim, dtype=torch.float32, device=query.device)
    stats = torch.empty(n_parts * 2, dtype=torch.float32, device=query.device)
    has_sinks = sinks is not None
    weights_of_sinks = stats if sinks is None else sinks.contiguous()
    _attend_part[n_rows, kv_heads, parts](
        query,
        key,
        value,
        output,
        layer.keys,
        layer.values,
        layer.table,
        pages.positions,
        mixed,
        stats,
        weights_of_sinks,
        scale,
        softcap or 1.0,
        layer.window or 0,
        layer.table.stride(0),
        *layer.keys.stride()[:3],
        PAGE=layer.page_tokens,
        GROUP=group,
        GROUP_PAD=max(MIN_MATRIX, triton.next_power_of_2(group)),
        DIM=dim,
        DIM_PAD=dim_pad,
        PARTS=parts,
        BLOCK=block,
        HAS_WINDOW=layer.window is not None,
        HAS_SOFTCAP=bool(softcap),
        HAS_SINKS=has_sinks,
        num_warps=4,
    )
    if parts > 1:
        _join_parts[(n_rows * heads,)](
            mixed,
            stats,
            weights_of_sinks,
            output,
            heads,
            DIM=dim,
            DIM_PAD=dim_pad,
            PARTS=parts,
            HAS_SINKS=has_sinks,
            num_warps=1,
        )
    return output
