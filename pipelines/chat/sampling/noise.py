"""Gumbel noise as a pure function of (seed, position in the reply, token), the same on every device.

Gumbel-max: the argmax of logits + noise is a sample from softmax(logits). As the noise is a hash, no row draws from a
stream of random numbers that other rows use, and a seed gives the same text whatever else is in the batch.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

_MASK = (1 << 64) - 1
# Constants of splitmix64: Steele, Lea, Flood 2014; the finaliser is Stafford's variant 13.
GOLDEN = 0x9E3779B97F4A7C15
FACTORS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
SHIFTS = (30, 27, 31)


def row_keys(seeds: Sequence[int], positions: Sequence[int], n_steps: int) -> Tensor:
    """The keys of the next tokens of each row: (R, n_steps) int64, on the CPU.

    positions: tokens that each row's reply has so far. Column i belongs to the token behind i more.
    """
    steps = torch.arange(1, n_steps + 1) * _signed(GOLDEN)
    return _finalize(torch.tensor(row_starts(seeds, positions), dtype=torch.long)[:, None] + steps)


def row_starts(seeds: Sequence[int], positions: Sequence[int]) -> list[int]:
    """What the keys of each row are made of: `GOLDEN` is added for each token, and the sum is mixed. int64."""
    return [_signed(_mix(seed & _MASK) + position * GOLDEN) for seed, position in zip(seeds, positions, strict=True)]


def gumbel(keys: Tensor, tokens: Tensor) -> Tensor:
    """Standard Gumbel noise. keys: (R,) int64; tokens: (R, K) int64. Returns (R, K) float64."""
    return _noise(tokens * _signed(GOLDEN) + keys[:, None])


def gumbel_of_all(keys: Tensor, n_tokens: int) -> Tensor:
    """The noise of the tokens 0 … n_tokens - 1. keys: (R,) int64. Returns (R, n_tokens) float64."""
    return _noise(_multiples(n_tokens, keys.device) + keys[:, None])


@functools.lru_cache(maxsize=4)
def _multiples(n_tokens: int, device: torch.device) -> Tensor:
    with torch.inference_mode():
        return torch.arange(n_tokens, device=device) * _signed(GOLDEN)


def _noise(bits: Tensor) -> Tensor:
    uniform = _shift_right(_finalize(bits), 11).double().add_(0.5).mul_(2.0**-53)  # in the open interval (0, 1)
    return uniform.log_().neg_().log_().neg_()


def _finalize(bits: Tensor) -> Tensor:
    """splitmix64's last steps, in place. int64 overflow wraps around, as intended."""
    for shift, factor in zip(SHIFTS, FACTORS, strict=False):
        bits ^= _shift_right(bits, shift)
        bits *= _signed(factor)
    bits ^= _shift_right(bits, SHIFTS[-1])
    return bits


def _mix(bits: int) -> int:
    bits = (bits + GOLDEN) & _MASK
    for shift, factor in zip(SHIFTS, FACTORS, strict=False):
        bits = ((bits ^ (bits >> shift)) * factor) & _MASK
    return bits ^ (bits >> SHIFTS[-1])


def _signed(bits: int) -> int:
    """The 64 bits read as torch's signed int64."""
    bits &= _MASK
    return bits - (1 << 64) if bits >> 63 else bits


def _shift_right(bits: Tensor, n: int) -> Tensor:
    """Logical shift; torch's own operator is arithmetic and copies the sign bit."""
    return (bits >> n).bitwise_and_((1 << (64 - n)) - 1)
