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
KEYS = 64  # read at a time by one program
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
    scale,
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
):
    row, kv_head, part = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    kv_heads = tl.num_programs(1)
    position = tl.load(positions + row)
    length = position + 1
    per_part = tl.cdiv(tl.cdiv(length, PARTS), BLOCK) * BLOCK
    begin = part * per_part
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
        page = tl.load(table + (at // PAGE) * table_stride + row, mask=cached, other=0).to(tl.int64)
        place = page * page_stride + (at % PAGE) * token_stride + kv_head * head_stride
        in_cache = cached[:, None] & in_dims[None, :]
        is_new = (at == position)[:, None]  # not in the cache yet: another program may be about to write it
        k = tl.load(keys + place[:, None] + dims[None, :], mask=in_cache, other=0.0)
        k = tl.where(is_new, new_key[None, :], k)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
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
        page = tl.load(table + (position // PAGE) * table_stride + row).to(tl.int64)
        place = page * page_stride + (position % PAGE) * token_stride + kv_head * head_stride
        tl.store(keys + place + dims, new_key, mask=in_dims)
        tl.store(values + place + dims, new_value, mask=in_dims)
    if PARTS == 1:
        result = sums / total[:, None]
        tl.store(output + at_query, result.to(output.dtype.element_ty), mask=in_query)
    else:
        at_part = (first_head + heads) * PARTS + part
        tl.store(mixed + at_part[:, None] * DIM + dims[None, :], sums, mask=in_query)
        tl.store(stats + at_part * 2, highest, mask=heads < GROUP)
        tl.store(stats + at_part * 2 + 1, total, mask=heads < GROUP)


@triton.jit  # type: ignore[untyped-decorator]  # triton carries no types
def _join_parts(mixed, stats, output, DIM: tl.constexpr, DIM_PAD: tl.constexpr, PARTS: tl.constexpr):  # type: ignore[no-untyped-def]
    head = tl.program_id(0)  # of all rows
    parts = head * PARTS + tl.arange(0, PARTS)
    dims = tl.arange(0, DIM_PAD)
    highest = tl.load(stats + parts * 2)  # -inf for a part without keys, which then weighs nothing
    weights = tl.exp(highest - tl.max(highest, 0))
    total = tl.sum(weights * tl.load(stats + parts * 2 + 1), 0)
    sums = tl.load(mixed + parts[:, None] * DIM + dims[None, :], mask=(dims < DIM)[None, :], other=0.0)
    result = tl.sum(sums * weights[:, None], 0) / total
    tl.store(output + head * DIM + dims, result.to(output.dtype.element_ty), mask=dims < DIM)


def attend_paged(query: Tensor, key: Tensor, value: Tensor, scale: float, pages: Pages) -> Tensor:
    """See `attention.Kernel`. All three are contiguous."""
    keys, values = pages.take_layer()
    n_rows, heads, dim = query.shape
    kv_heads = key.shape[1]
    group = heads // kv_heads
    parts = min(MAX_PARTS, triton.next_power_of_2(triton.cdiv(PROGRAMS, n_rows * kv_heads)))
    output = torch.empty_like(query)
    n_parts = n_rows * heads * parts if parts > 1 else 0
    mixed = torch.empty(n_parts * dim, dtype=torch.float32, device=query.device)
    stats = torch.empty(n_parts * 2, dtype=torch.float32, device=query.device)
    dim_pad = max(MIN_MATRIX, triton.next_power_of_2(dim))
    _attend_part[n_rows, kv_heads, parts](
        query,
        key,
        value,
        output,
        keys,
        values,
        pages.table,
        pages.positions,
        mixed,
        stats,
        scale,
        pages.table.stride(0),
        *keys.stride()[:3],
        PAGE=pages.page_tokens,
        GROUP=group,
        GROUP_PAD=max(MIN_MATRIX, triton.next_power_of_2(group)),
        DIM=dim,
        DIM_PAD=dim_pad,
        PARTS=parts,
        BLOCK=KEYS,
        num_warps=4,
    )
    if parts > 1:
        _join_parts[(n_rows * heads,)](mixed, stats, output, DIM=dim, DIM_PAD=dim_pad, PARTS=parts, num_warps=1)
    return output
