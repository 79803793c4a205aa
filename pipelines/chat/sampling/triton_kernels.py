"""Triton kernels of the choice of tokens: noise in one pass, and nuclei wider than the candidates without waiting.

They do what `noise.py` and `sampling.py` do with torch's operators. Importing this file needs Triton.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from pipelines.chat.sampling import noise

_GOLDEN = tl.constexpr(noise.GOLDEN)
_FACTOR_1 = tl.constexpr(noise.FACTORS[0])
_FACTOR_2 = tl.constexpr(noise.FACTORS[1])
BLOCK = 1024  # tokens of one program
WIDE_BLOCK = 4096  # tokens of one pass of the program that reads a whole row


@triton.jit
def _gumbel(key, tokens):  # type: ignore[no-untyped-def]
    """`noise.gumbel`. key: int64; tokens: int64."""
    bits = tokens.to(tl.uint64, bitcast=True) * _GOLDEN + key.to(tl.uint64, bitcast=True)
    bits = (bits ^ (bits >> 30)) * _FACTOR_1
    bits = (bits ^ (bits >> 27)) * _FACTOR_2
    bits = bits ^ (bits >> 31)
    uniform = ((bits >> 11).to(tl.int64, bitcast=True).to(tl.float64) + 0.5) * (1.0 / 9007199254740992.0)
    return -tl.log(-tl.log(uniform))


# Triton compiles a kernel again for arguments that are, or are not, multiples of 16 or aligned so. Not these: a variant
# would be compiled in the middle of a reply. Their speed does not depend on wide loads.
@triton.jit(do_not_specialize=["logits", "row_size", "temperature", "keys", "least", "out", "n"])  # type: ignore[untyped-decorator]  # triton carries no types
def _noisy_logits(logits, row_size, temperature, keys, least, out, n, HAS_LEAST: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    row = tl.program_id(0).to(tl.int64)
    tokens = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = tokens < n
    scores = tl.load(logits + row * row_size + tokens, mask=inside, other=0.0).to(tl.float64) / tl.load(
        temperature + row
    )
    noisy = scores + _gumbel(tl.load(keys + row), tokens.to(tl.int64))
    if HAS_LEAST:
        noisy = tl.where(scores >= tl.load(least + row), noisy, float("-inf"))
    tl.store(out + row * n + tokens, noisy, mask=inside)


@triton.jit(do_not_specialize=["scores", "tokens", "keys", "out", "n"])  # type: ignore[untyped-decorator]
def _noisy_candidates(scores, tokens, keys, out, n, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    row = tl.program_id(0).to(tl.int64)
    index = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = index < n
    noisy = tl.load(scores + row * n + index, mask=inside, other=0.0) + _gumbel(
        tl.load(keys + row), tl.load(tokens + row * n + index, mask=inside, other=0)
    )
    tl.store(out + row * n + index, noisy, mask=inside)


@triton.jit
def _order(values):  # type: ignore[no-untyped-def]
    """int64 numbers in the order of these float32 values; both zeros have the same."""
    bits = tl.where(values == 0.0, 0.0, values).to(tl.int32, bitcast=True)
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.int64)


@triton.jit(  # type: ignore[untyped-decorator]
    do_not_specialize=[
        "found", "wide", "logits", "row_size", "temperature", "top_p", "log_min_p", "total", "keys", "n",
    ]
)  # fmt: skip
def _draw_wide(  # type: ignore[no-untyped-def]
    found, wide, logits, row_size, temperature, top_p, log_min_p, total, keys, n,
    HAS_MIN_P: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One program reads a whole row several times; for nearly all rows it has nothing to do."""
    row = tl.program_id(0).to(tl.int64)
    if tl.load(wide + row) != 0:
        logits += row * row_size
        t, p, log_total = tl.load(temperature + row), tl.load(top_p + row), tl.load(total + row)
        # 1. Bisect for the least likely token of the nucleus: those likelier than it have less than p of the mass, and
        # those as likely as it and likelier have at least p. The mass above `high` is always `mass_above` < p.
        low = tl.full((), -(2**31), tl.int64)
        high = tl.full((), 2**31, tl.int64)
        mass_above = tl.full((), 0.0, tl.float64)
        for _ in range(32):
            middle = (low + high) >> 1
            sums = tl.zeros((BLOCK,), tl.float64)
            for start in range(0, n, BLOCK):
                tokens = start + tl.arange(0, BLOCK)
                values = tl.load(logits + tokens, mask=tokens < n, other=float("-inf"))
                shares = tl.exp(values.to(tl.float64) / t - log_total)
                sums += tl.where(_order(values) >= middle, shares, 0.0)
            mass = tl.sum(sums, 0)
            if mass >= p:
                low = middle
            else:
                high = middle
                mass_above = mass
        # 2. Draw from the nucleus. Of several tokens that are equally likely at its end, those with the smaller
        # numbers belong to it, as long as the mass before each is less than p.
        best = tl.full((), float("-inf"), tl.float64)
        token = tl.full((), 0, tl.int64)
        n_equal = tl.full((), 0, tl.int64)
        key = tl.load(keys + row)
        least = tl.full((), float("-inf"), tl.float64)
        if HAS_MIN_P:
            largest = tl.full((BLOCK,), float("-inf"), tl.float32)
            for start in range(0, n, BLOCK):
                tokens = start + tl.arange(0, BLOCK)
                largest = tl.maximum(largest, tl.load(logits + tokens, mask=tokens < n, other=float("-inf")))
            least = tl.max(largest, 0).to(tl.float64) / t + tl.load(log_min_p + row)
        for start in range(0, n, BLOCK):
            tokens = start + tl.arange(0, BLOCK)
            values = tl.load(logits + tokens, mask=tokens < n, other=float("-inf"))
            scores = values.to(tl.float64) / t
            order = _order(values)
            equal = (order == low).to(tl.int64)
            before = mass_above + (n_equal + tl.cumsum(equal, 0) - equal).to(tl.float64) * tl.exp(scores - log_total)
            kept = (order > low) | ((equal != 0) & (before < p))
            kept = kept & (scores >= least) & (tokens < n)
            noisy = tl.where(kept, scores + _gumbel(key, tokens.to(tl.int64)), float("-inf"))
            value = tl.max(noisy, 0)
            if value > best:
                best = value
                token = start + tl.argmax(noisy, 0).to(tl.int64)
            n_equal += tl.sum(equal, 0)
        tl.store(found + row, token)


def noisy_logits(logits: Tensor, temperature: Tensor, keys: Tensor, least: Tensor | None) -> Tensor:
    """logits / temperature + noise, -inf where the quotient is below `least`.

    logits: (R, V) float32; temperature, least: (R, 1) float64; keys: (R,) int64. Returns (R, V) float64.
    """
    rows, n = logits.shape
    out = torch.empty(rows, n, dtype=torch.float64, device=logits.device)
    _noisy_logits[rows, triton.cdiv(n, BLOCK)](
        logits, logits.stride(0), temperature, keys, least, out, n, HAS_LEAST=least is not None, BLOCK=BLOCK
    )
    return out


def noisy_candidates(scores: Tensor, tokens: Tensor, keys: Tensor) -> Tensor:
    """scores + noise of the tokens. scores: (R, K) float64; tokens: (R, K) int64; both contiguous; keys: (R,) int64."""
    rows, n = scores.shape
    out = torch.empty_like(scores)
    _noisy_candidates[rows, triton.cdiv(n, BLOCK)](scores, tokens, keys, out, n, BLOCK=BLOCK)
    return out


def draw_wide(
    found: Tensor,
    wide: Tensor,
    logits: Tensor,
    temperature: Tensor,
    top_p: Tensor,
    log_min_p: Tensor | None,
    total: Tensor,
    keys: Tensor,
) -> None:
    """Draw from the whole top-p nucleus of the rows that are `wide`, (R,) bool, and write their tokens to `found`.

    found: (R,) int64, contiguous; logits: (R, V) float32; total: logarithm of the mass of the row; it, temperature,
    top_p and log_min_p: (R, 1) float64; keys: (R,) int64.
    """
    rows, n = logits.shape
    _draw_wide[(rows,)](
        found, wide, logits, logits.stride(0), temperature, top_p, log_min_p, total, keys, n,
        HAS_MIN_P=log_min_p is not None, BLOCK=WIDE_BLOCK, num_warps=16,
    )  # fmt: skip


def check(device: torch.device) -> None:
    """Compile the kernels, and compare them with torch's operators. Waits for the device.

    Raises ValueError where they differ, and whatever Triton raises.
    """
    rows, n = 3, 5000
    logits = torch.randn(rows, n, generator=torch.Generator().manual_seed(0)).to(device)
    keys = noise.row_keys(range(rows), [0] * rows, 1)[:, 0].to(device)
    temperature, top_p, log_min_p = (
        torch.tensor(values, dtype=torch.double, device=device)[:, None]
        for values in ([0.7, 1.0, 2.0], [0.9, 0.95, 0.99], [-9.0, -9.0, -torch.inf])
    )
    scores = logits / temperature
    best, tokens = scores.sort(descending=True)
    least, total = best[:, :1] + log_min_p, scores.logsumexp(-1, keepdim=True)
    noisy = noise.gumbel_of_all(keys, n) + scores
    _compare(noisy_logits(logits, temperature, keys, None), noisy)
    _compare(noisy_logits(logits, temperature, keys, least), noisy.masked_fill(scores < least, -torch.inf))
    _compare(noisy_candidates(best, tokens, keys), noisy.gather(-1, tokens))
    shares = (best - total).exp()
    outside = shares.cumsum(-1) - shares >= top_p
    wide = torch.tensor([True, False, True], device=device)
    for floor, dropped in ((None, outside), (log_min_p, outside | (best < least))):
        found = torch.full((rows,), -5, device=device)
        draw_wide(found, wide, logits, temperature, top_p, floor, total, keys)
        winner = noisy.gather(-1, tokens).masked_fill(dropped, -torch.inf).argmax(-1, keepdim=True)
        _compare(found.double(), torch.where(wide, tokens.gather(-1, winner)[:, 0], -5).double())


def _compare(ours: Tensor, theirs: Tensor) -> None:
    if not torch.allclose(ours, theirs, rtol=0.0, atol=1e-9):
        raise ValueError("a kernel of the choice of tokens computes other values than torch's operators")
