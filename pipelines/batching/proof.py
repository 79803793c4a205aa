"""Proves on real calls that a module keeps its rows apart, before any merged result is used. Device thread only.

Three things are compared: each real call alone and merged; a perturbed call, with other values in every row and scalar,
alone and merged; and a real call next to itself and next to perturbed calls at the same width, where nothing at all may
change. The perturbed call matters because the first calls that meet are often alike (one prompt twice, all at the first
timestep), and among equal rows even a module that mixes them looks right.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.utils import _pytree as pytree

from pipelines import device
from pipelines.batching.merging import Call, difference, perturbed, run_merged

# Largest difference, relative to the largest value, between a row run alone and the same row in a batch. float32: the
# kernels of different widths differ by a few 1e-6 through a deep network. Half precision: about its own rounding.
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-6, torch.bfloat16: 5e-2, torch.float16: 1e-2}
SAME_WIDTH = 1 / 50  # of the tolerance, between two batches of one width: none is expected, and a leak is far larger


def rows_are_independent(calls: list[Call], alone: list[Any], width: int) -> bool:
    """Whether merging `calls` changes nothing but rounding. alone: the output of each call run by itself.

    Raises errors that prove nothing about the module: out of memory, or a lost device.
    """
    try:
        other = perturbed(calls[0])
        other_alone = other.run()
        merged = run_merged(calls, width)
        next_to_others, other_merged, *_ = run_merged([calls[0], *[other] * (width - 1)], width)
    except Exception as error:  # a call that raises any other error when it is merged does not merge
        if device.is_fatal(error) or device.is_out_of_memory(error):
            raise
        return False
    allowed = tolerance(alone[0])
    pairs = [*zip(alone, merged, strict=True), (other_alone, other_merged)]
    return (
        all(difference(one, two) <= allowed for one, two in pairs)
        and difference(merged[0], next_to_others) <= allowed * SAME_WIDTH
    )


def tolerance(output: Any) -> float:
    """The largest tolerance among the dtypes of an output."""
    dtypes = {leaf.dtype for leaf in pytree.tree_leaves(output) if isinstance(leaf, torch.Tensor)}
    return max((TOLERANCE.get(dtype, 0.0) for dtype in dtypes), default=0.0)
