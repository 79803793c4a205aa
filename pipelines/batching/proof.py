"""Does a module keep its rows apart? Found out on real calls, before any merged result is used. Device thread only.

Three things are compared: each real call alone and merged; a stranger with other values in every row and scalar, alone
and merged; and a real call beside itself or beside strangers at the same width, where nothing at all may change. The
strangers matter because the first calls that meet are often alike (one prompt twice, all at the first timestep), and
among equals even a module that mixes its rows looks right.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.utils import _pytree as pytree

from pipelines import device
from pipelines.batching.merging import Call, difference, run_merged, stranger

# Largest difference, relative to the largest value, between a row run alone and the same row in a batch. float32: kernels
# chosen by width differ by a few 1e-6 through a deep network; halves: about their own rounding.
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-6, torch.bfloat16: 5e-2, torch.float16: 1e-2}
SAME_WIDTH = 1 / 50  # of that, between two batches of one width: none is expected, a leak is far more


def agree(calls: list[Call], alone: list[Any], width: int) -> bool:
    """True when merging `calls` changes nothing but rounding. alone: what each gave by itself.

    Raises what says nothing about the module: out of memory, a lost device.
    """
    try:
        other = stranger(calls[0])
        other_alone = other.run()
        merged = run_merged(calls, width)
        beside, other_merged, *_ = run_merged([calls[0], *[other] * (width - 1)], width)
    except Exception as error:  # whatever a merged call raises, it does not merge
        if device.is_fatal(error) or device.is_out_of_memory(error):
            raise
        return False
    allowed = tolerance(alone[0])
    pairs = [*zip(alone, merged, strict=True), (other_alone, other_merged)]
    return (
        all(difference(one, two) <= allowed for one, two in pairs)
        and difference(merged[0], beside) <= allowed * SAME_WIDTH
    )


def tolerance(output: Any) -> float:
    dtypes = {leaf.dtype for leaf in pytree.tree_leaves(output) if isinstance(leaf, torch.Tensor)}
    return max((TOLERANCE.get(dtype, 0.0) for dtype in dtypes), default=0.0)
