"""Triton kernels that choose the next tokens of a batch: the whole choice in two to eleven launches for all rows.

They choose what `torch_choice.py` chooses with torch's operators. Importing this file needs Triton.

Each row is divided among `PARTS` programs, so that one row fills the device, and every kernel reads what all the
programs of the one before it have found. Nothing is sorted:

1. `_survey` finds the largest logit, the mass of the row, and the largest sum of score and noise: a free sample.
2. `_count_digit` finds the logit of the top-k cut, eight bits in each of four passes. Only where a row has that cut.
3. `_try` measures what is likelier than the token at hand. If that is less than the cuts allow, the token belongs to
   what they keep, and no other such token has a larger sum. Otherwise nothing from this token downwards belongs to
   it, and the next token to try has the largest sum of those above. A try succeeds with a probability of at least
   top_p, so a few of them are enough for nearly every row.
4. `_finish` tries on for a row that has had no success, and writes the tokens.

The order of tokens: likelier ones first, of equally likely ones those with the smaller numbers.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from pipelines.chat.sampling import noise

PARTS = tl.constexpr(128)  # programs that share a row: one for nearly each multiprocessor of a large GPU
BLOCK = tl.constexpr(1024)  # tokens that such a program reads at a time
ROW_BLOCK = tl.constexpr(4096)  # tokens that the one program of a row in `_finish` reads at a time
TRIES = tl.constexpr(5)
DIGITS, BINS = tl.constexpr(4), tl.constexpr(256)  # of a logit's 32 bits

# Columns of the settings of a row, float64.
KIND, TEMPERATURE, TOP_K, TOP_P, LOG_MIN_P, JUDGED = map(tl.constexpr, range(6))  # JUDGED: `highest` is to be read
COLUMNS = tl.constexpr(6)
NO_ROW, GREEDY, FREE, CUT = map(tl.constexpr, range(4))  # kinds; FREE: drawn from all tokens

# What each program of a row has found, float64. Slot 0 is of `_survey`, the others are of the tries.
SLOTS, FIELDS = tl.constexpr(6), tl.constexpr(5)
MASS, BEST, TOKEN = map(tl.constexpr, range(3))  # share of the row; largest sum of score and noise; its token
PEAK, LIKELIEST = map(tl.constexpr, range(3, 5))  # of `_survey`: the largest logit, infinity for NaN; its token
COUNT, PIVOT = map(tl.constexpr, range(3, 5))  # of a try: tokens before the one that is tried; that one, -1: none

GOLDEN = tl.constexpr(noise.GOLDEN)
FACTOR_1, FACTOR_2 = map(tl.constexpr, noise.FACTORS)

# Triton compiles a kernel again for arguments that are, or are not, multiples of 16 or aligned so. Not for these: a
# variant would be compiled in the middle of a reply.
ARGUMENTS = [
    *("logits", "row_size", "n", "settings", "starts", "partials", "digits", "answers", "limits", "tokens"),
    *("highest", "slot", "digit"),
]


class Buffers(NamedTuple):
    """What the kernels read and write for up to R rows."""

    settings: Tensor  # (R, COLUMNS) float64
    starts: Tensor  # (R,) int64, of `noise.row_starts`; each choice moves them to the next token
    partials: Tensor  # (R, SLOTS, FIELDS, PARTS) float64
    digits: Tensor  # (R, DIGITS, BINS) int32: how many logits have each digit behind those of the top-k cut
    answers: Tensor  # (R,) int64: the token of a try that succeeded, or -1
    limits: Tensor  # (R,) float64: the mass before a token of the nucleus is less than this
    highest: Tensor  # (R,) float32: the largest logit before penalties and masks, or NaN
    tokens: Tensor  # (R,) int64: the choice; -1 for a row whose logits are not all numbers

    @classmethod
    def empty(cls, rows: int, device: torch.device) -> Buffers:
        """None of them is a row of logits yet."""

        def zeros(*shape: tl.constexpr, dtype: torch.dtype) -> Tensor:
            return torch.zeros(rows, *(each.value for each in shape), dtype=dtype, device=device)

        return cls(
            settings=zeros(COLUMNS, dtype=torch.double),
            starts=zeros(dtype=torch.long),
            partials=zeros(SLOTS, FIELDS, PARTS, dtype=torch.double),
            digits=zeros(DIGITS, BINS, dtype=torch.int32),
            answers=zeros(dtype=torch.long),
            limits=zeros(dtype=torch.double),
            highest=zeros(dtype=torch.float32),
            tokens=zeros(dtype=torch.long),
        )

    @property
    def n_bytes(self) -> int:
        return sum(int(each.nbytes) for each in self)


def choose(logits: Tensor, buffers: Buffers, *, cuts: bool, top_k: bool) -> None:
    """Launch the choice for as many rows as there are logits. The buffers hold it then.

    logits: (R, V) float32, the tokens of a row side by side. cuts: rows may be of the kind CUT; top_k: also by top-k.
    """
    rows, n = logits.shape
    grid = (rows, PARTS.value)
    b, row = buffers, (logits, logits.stride(0), n, buffers.settings)
    _survey[grid](*row, b.starts, b.partials, b.digits, b.answers, b.limits)
    if cuts:
        for digit in range(DIGITS.value if top_k else 0):
            _count_digit[grid](*row, b.digits, digit)
        for slot in range(1, SLOTS.value):
            _try[grid](*row, b.starts, b.partials, b.digits, b.answers, b.limits, slot)
    _finish[(rows,)](*row, b.starts, b.partials, b.answers, b.limits, b.highest, b.tokens, num_warps=16)


@triton.jit
def _finalize(bits):  # type: ignore[no-untyped-def]
    """`noise._finalize`. bits: uint64."""
    bits = (bits ^ (bits >> 30)) * FACTOR_1
    bits = (bits ^ (bits >> 27)) * FACTOR_2
    return bits ^ (bits >> 31)


@triton.jit
def _key(starts, row):  # type: ignore[no-untyped-def]
    """The key of the next token's noise, uint64, as of `noise.row_keys`."""
    return _finalize(tl.load(starts + row).to(tl.uint64, bitcast=True) + GOLDEN)


@triton.jit
def _gumbel(key, tokens):  # type: ignore[no-untyped-def]
    """`noise.gumbel`. key: uint64."""
    bits = _finalize(tokens.to(tl.int64).to(tl.uint64, bitcast=True) * GOLDEN + key)
    uniform = ((bits >> 11).to(tl.int64, bitcast=True).to(tl.float64) + 0.5) * (1.0 / 9007199254740992.0)
    return -tl.log(-tl.log(uniform))


@triton.jit
def _order(values):  # type: ignore[no-untyped-def]
    """int64 numbers from -2³¹ to 2³¹ - 1 in the order of these float32 values; both zeros have the same."""
    bits = tl.where(values == 0.0, 0.0, values).to(tl.int32, bitcast=True)
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.int64)


@triton.jit
def _value(order):  # type: ignore[no-untyped-def]
    """The float32 value that has this number in `_order`."""
    bits = order.to(tl.int32)
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)


@triton.jit
def _of_parts(partials, row, slot, field):  # type: ignore[no-untyped-def]
    """What the programs of a row have found, (PARTS,) float64."""
    return tl.load(partials + ((row * SLOTS + slot) * FIELDS + field) * PARTS + tl.arange(0, PARTS))


@triton.jit
def _of_largest(partials, row, slot, by, field):  # type: ignore[no-untyped-def]
    """What the first program with the largest value in the field `by` has found in another field, int64."""
    is_largest = tl.arange(0, PARTS) == tl.argmax(_of_parts(partials, row, slot, by), 0)
    return tl.sum(tl.where(is_largest, _of_parts(partials, row, slot, field), 0.0), 0).to(tl.int64)


@triton.jit
def _largest_score(partials, row, temperature):  # type: ignore[no-untyped-def]
    return tl.max(_of_parts(partials, row, 0, PEAK), 0) / temperature


@triton.jit
def _log_total(partials, row, temperature):  # type: ignore[no-untyped-def]
    """Logarithm of the sum of exp(score) of all tokens."""
    peaks = _of_parts(partials, row, 0, PEAK) / temperature
    largest = tl.max(peaks, 0)
    return largest + tl.log(tl.sum(_of_parts(partials, row, 0, MASS) * tl.exp(peaks - largest), 0))


@triton.jit
def _store(partials, row, slot, part, field_0, field_1, field_2, field_3, field_4):  # type: ignore[no-untyped-def]
    at = partials + (row * SLOTS + slot) * FIELDS * PARTS + part
    tl.store(at, field_0.to(tl.float64))
    tl.store(at + PARTS, field_1.to(tl.float64))
    tl.store(at + 2 * PARTS, field_2.to(tl.float64))
    tl.store(at + 3 * PARTS, field_3.to(tl.float64))
    tl.store(at + 4 * PARTS, field_4.to(tl.float64))


@triton.jit(do_not_specialize=ARGUMENTS)
def _survey(logits, row_size, n, settings, starts, partials, digits, answers, limits):  # type: ignore[no-untyped-def]
    row, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    own = settings + row * COLUMNS
    kind = tl.load(own + KIND)
    zeroed: tl.constexpr = DIGITS * BINS // PARTS
    tl.store(digits + row * (DIGITS * BINS) + part * zeroed + tl.arange(0, zeroed), tl.zeros((zeroed,), tl.int32))
    if part == 0:
        top_p = tl.load(own + TOP_P)
        tl.store(answers + row, tl.full((), -1, tl.int64))
        tl.store(limits + row, tl.where(top_p < 1.0, top_p, float("inf")))
    if kind != NO_ROW:
        logits += row * row_size
        size = tl.cdiv(n, PARTS)
        first = part * size
        last = tl.minimum(first + size, n)
        peak = tl.full((), float("-inf"), tl.float32)
        likeliest = first
        for start in range(first, last, BLOCK):
            tokens = start + tl.arange(0, BLOCK)
            values = tl.load(logits + tokens, mask=tokens < last, other=float("-inf"))
            values = tl.where(values == values, values, float("inf"))
            largest = tl.max(values, 0)
            if largest > peak:
                peak = largest
                likeliest = start + tl.argmax(values, 0)
        mass = tl.full((), 0.0, tl.float64)
        best = tl.full((), float("-inf"), tl.float64)
        token = first
        if kind != GREEDY:
            temperature = tl.load(own + TEMPERATURE)
            key = _key(starts, row)
            highest = peak.to(tl.float64) / temperature
            for start in range(first, last, BLOCK):
                tokens = start + tl.arange(0, BLOCK)
                values = tl.load(logits + tokens, mask=tokens < last, other=float("-inf"))
                scores = values.to(tl.float64) / temperature
                mass += tl.sum(tl.where(values == float("-inf"), 0.0, tl.exp(scores - highest)), 0)
                noisy = scores + _gumbel(key, tokens)
                largest_sum = tl.max(noisy, 0)
                if largest_sum > best:
                    best = largest_sum
                    token = start + tl.argmax(noisy, 0)
        _store(partials, row, 0, part, mass, best, token, peak, likeliest)


@triton.jit
def _k_th(digits, row, top_k, n_digits):  # type: ignore[no-untyped-def]
    """The first digits of the k-th largest number in `_order`, plus 2³¹. int64."""
    bins = tl.arange(0, BINS)
    found = tl.full((), 0, tl.int64)
    wanted = top_k.to(tl.int64)
    for digit in range(n_digits):
        counts = tl.load(digits + (row * DIGITS + digit) * BINS + bins).to(tl.int64)
        above = tl.sum(counts, 0) - tl.cumsum(counts, 0)
        is_here = (above < wanted) & (above + counts >= wanted)
        found = found * BINS + tl.sum(tl.where(is_here, bins, 0), 0).to(tl.int64)
        wanted -= tl.sum(tl.where(is_here, above, 0), 0)
    return found


@triton.jit(do_not_specialize=ARGUMENTS)
def _count_digit(logits, row_size, n, settings, digits, digit):  # type: ignore[no-untyped-def]
    row, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    top_k = tl.load(settings + row * COLUMNS + TOP_K)
    if top_k > 0:
        logits += row * row_size
        size = tl.cdiv(n, PARTS)
        first = part * size
        last = tl.minimum(first + size, n)
        known = _k_th(digits, row, top_k, digit)
        shift = 24 - 8 * digit
        counts = tl.zeros((BINS,), tl.int32)
        for start in range(first, last, BLOCK):
            tokens = start + tl.arange(0, BLOCK)
            values = tl.load(logits + tokens, mask=tokens < last, other=float("-inf"))
            number = _order(values) + 2147483648
            is_counted = (tokens < last) & ((number >> (shift + 8)) == known)
            counts += tl.histogram(((number >> shift) & 255).to(tl.int32), BINS, mask=is_counted)
        bins = tl.arange(0, BINS)
        tl.atomic_add(digits + (row * DIGITS + digit) * BINS + bins, counts, mask=counts > 0)


@triton.jit  # type: ignore[untyped-decorator]  # triton carries no types
def _look(logits, first, last, pivot, pivot_token, temperature, log_total, least, key, SIZE: tl.constexpr):  # type: ignore[no-untyped-def]
    """What is in order before a token: (share of the row, number of tokens, the largest sum, its token).

    pivot: of that token, in `_order`. least: the sum is of tokens with at least this score.
    """
    mass = tl.full((), 0.0, tl.float64)
    count = tl.full((), 0, tl.int64)
    best = tl.full((), float("-inf"), tl.float64)
    token = tl.full((), 0, tl.int64)
    for start in range(first, last, SIZE):
        tokens = start + tl.arange(0, SIZE)
        values = tl.load(logits + tokens, mask=tokens < last, other=float("-inf"))
        order = _order(values)
        is_before = (tokens < last) & ((order > pivot) | ((order == pivot) & (tokens < pivot_token)))
        n_before = tl.sum(is_before.to(tl.int32), 0)
        if n_before > 0:
            scores = values.to(tl.float64) / temperature
            mass += tl.sum(tl.where(is_before, tl.exp(scores - log_total), 0.0), 0)
            count += n_before.to(tl.int64)
            noisy = tl.where(is_before & (scores >= least), scores + _gumbel(key, tokens), float("-inf"))
            largest_sum = tl.max(noisy, 0)
            if largest_sum > best:
                best = largest_sum
                token = start + tl.argmax(noisy, 0).to(tl.int64)
    return mass, count, best, token


@triton.jit
def _is_kept(logits, pivot_token, mass, count, best, temperature, top_k, limit, least):  # type: ignore[no-untyped-def]
    """Whether the cuts keep a token with so much before it. The first one is always kept."""
    score = tl.load(logits + pivot_token).to(tl.float64) / temperature
    in_top_k = (top_k <= 0) | (count.to(tl.float64) < top_k)
    return (in_top_k & (mass < limit) & (score >= least)) | (best == float("-inf"))


@triton.jit(do_not_specialize=ARGUMENTS)
def _try(logits, row_size, n, settings, starts, partials, digits, answers, limits, slot):  # type: ignore[no-untyped-def]
    """Judge the try before by what its programs have found, and take the next. The top k are looked at first."""
    row, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    own = settings + row * COLUMNS
    if (tl.load(own + KIND) == CUT) & (tl.load(answers + row) < 0):
        logits += row * row_size
        temperature, top_k = tl.load(own + TEMPERATURE), tl.load(own + TOP_K)
        log_total = _log_total(partials, row, temperature)
        least = _largest_score(partials, row, temperature) + tl.load(own + LOG_MIN_P)
        mass = tl.sum(_of_parts(partials, row, slot - 1, MASS), 0)
        best = tl.max(_of_parts(partials, row, slot - 1, BEST), 0)
        count = tl.full((), 0.0, tl.float64)
        tried = tl.full((), -1, tl.int64)
        if slot > 1:
            count = tl.sum(_of_parts(partials, row, slot - 1, COUNT), 0)
            tried = tl.max(_of_parts(partials, row, slot - 1, PIVOT), 0).to(tl.int64)
        is_kept = tried >= 0
        if is_kept:
            limit = tl.load(limits + row)
            is_kept = _is_kept(logits, tried, mass, count, best, temperature, top_k, limit, least)
        if is_kept:
            if part == 0:
                tl.store(answers + row, tried)
        else:
            token = _of_largest(partials, row, slot - 1, BEST, TOKEN)
            pivot = _order(tl.load(logits + token))
            if (slot <= 2) & (top_k > 0):
                k_th = _k_th(digits, row, top_k, DIGITS) - 2147483648
                if slot == 1:  # no token: look at all that are at least as likely as the k-th
                    token = tl.full((), -1, tl.int64)
                    pivot = k_th - 1
                elif part == 0:  # their mass, of which those that are as likely as the k-th may have too much
                    share = tl.exp(_value(k_th).to(tl.float64) / temperature - log_total)
                    limit = tl.load(limits + row) * (mass - (count - top_k) * share)
                    tl.store(limits + row, limit)
            size = tl.cdiv(n, PARTS)
            first = part * size
            last = tl.minimum(first + size, n)
            key = _key(starts, row)
            mass, n_before, best, found = _look(
                logits, first, last, pivot, token, temperature, log_total, least, key, BLOCK
            )
            _store(partials, row, slot, part, mass, best, found, n_before, token)


@triton.jit(do_not_specialize=ARGUMENTS)
def _finish(logits, row_size, n, settings, starts, partials, answers, limits, highest, tokens):  # type: ignore[no-untyped-def]
    row = tl.program_id(0).to(tl.int64)
    own = settings + row * COLUMNS
    kind = tl.load(own + KIND)
    if kind != NO_ROW:
        peak = tl.max(_of_parts(partials, row, 0, PEAK), 0)
        judged = tl.load(own + JUDGED) != 0
        peak = tl.where(judged, tl.load(highest + row).to(tl.float64), peak)
        is_invalid = (peak - peak) != 0.0  # not 0 for infinity and NaN
        token = tl.full((), -1, tl.int64)
        if is_invalid == 0:
            if kind == GREEDY:
                token = _of_largest(partials, row, 0, PEAK, LIKELIEST)
            elif kind == FREE:
                token = _of_largest(partials, row, 0, BEST, TOKEN)
            else:
                token = tl.load(answers + row)
                if token < 0:
                    logits += row * row_size
                    temperature, top_k = tl.load(own + TEMPERATURE), tl.load(own + TOP_K)
                    log_total = _log_total(partials, row, temperature)
                    least = _largest_score(partials, row, temperature) + tl.load(own + LOG_MIN_P)
                    limit = tl.load(limits + row)
                    key = _key(starts, row)
                    token = tl.max(_of_parts(partials, row, TRIES, PIVOT), 0).to(tl.int64)
                    mass = tl.sum(_of_parts(partials, row, TRIES, MASS), 0)
                    count = tl.sum(_of_parts(partials, row, TRIES, COUNT), 0).to(tl.int64)
                    best = tl.max(_of_parts(partials, row, TRIES, BEST), 0)
                    found = _of_largest(partials, row, TRIES, BEST, TOKEN)
                    while _is_kept(logits, token, mass, count, best, temperature, top_k, limit, least) == 0:
                        token = found
                        pivot = _order(tl.load(logits + token))
                        mass, count, best, found = _look(
                            logits, 0, n, pivot, token, temperature, log_total, least, key, ROW_BLOCK
                        )
        tl.store(tokens + row, token)
        start = tl.load(starts + row).to(tl.uint64, bitcast=True) + GOLDEN
        tl.store(starts + row, start.to(tl.int64, bitcast=True))
