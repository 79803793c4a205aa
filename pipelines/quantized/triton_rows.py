"""Quantizes the rows of a matrix to eight bits in one Triton kernel. Imported where Triton is installed.

Written in torch, that takes six kernels, which cost more than what a product of few rows saves.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

MOST_COLUMNS = 4096  # that a program holds at a time


@triton.jit  # type: ignore[untyped-decorator]  # triton carries no types
def _quantize_row(  # type: ignore[no-untyped-def]
    rows,  # (R, N_COLUMNS)
    values,  # (R, N_COLUMNS), in eight bits
    scales,  # (R,) float32
    N_COLUMNS: tl.constexpr,
    LARGEST: tl.constexpr,
    SMALLEST_SCALE: tl.constexpr,
    IS_FLOAT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    largest = tl.zeros([BLOCK], tl.float32)
    for begin in range(0, N_COLUMNS, BLOCK):
        inside = begin + columns < N_COLUMNS
        found = tl.load(rows + row * N_COLUMNS + begin + columns, mask=inside, other=0.0)
        largest = tl.maximum(largest, tl.abs(found.to(tl.float32)))
    scale = tl.maximum(tl.max(largest, axis=0) / LARGEST, SMALLEST_SCALE)
    inverse = 1.0 / scale
    for begin in range(0, N_COLUMNS, BLOCK):
        inside = begin + columns < N_COLUMNS
        found = tl.load(rows + row * N_COLUMNS + begin + columns, mask=inside, other=0.0)
        scaled = found.to(tl.float32) * inverse
        if not IS_FLOAT:
            scaled = tl.floor(scaled + 0.5)
        tl.store(values + row * N_COLUMNS + begin + columns, scaled.to(values.dtype.element_ty), mask=inside)
    tl.store(scales + row, scale)


def quantize(rows: Tensor, dtype: torch.dtype, largest: float, smallest_scale: float) -> tuple[Tensor, Tensor]:
    """Returns the rows in `dtype` and the scale of each, float32 (R, 1). largest: the largest value of `dtype`."""
    rows = rows.contiguous()
    n_rows, n_columns = rows.shape
    values = torch.empty_like(rows, dtype=dtype)
    scales = torch.empty(n_rows, 1, dtype=torch.float32, device=rows.device)
    if n_rows:
        block = min(MOST_COLUMNS, triton.next_power_of_2(n_columns))
        _quantize_row[(n_rows,)](
            rows,
            values,
            scales,
            N_COLUMNS=n_columns,
            LARGEST=largest,
            SMALLEST_SCALE=smallest_scale,
            IS_FLOAT=dtype.is_floating_point,
            BLOCK=block,
            num_warps=4 if block <= 1024 else 8,
        )
    return values, scales
