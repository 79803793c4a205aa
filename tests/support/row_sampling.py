"""The choice of tokens as it was made row by row, with Python between the kernels: what the batched one must equal.

Simple and slow. It waits for the device several times a step, and it changes `logits` in place.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

Likeliest: TypeAlias = tuple[tuple[int, float], ...]  # (token, its log probability), likeliest first

N_CANDIDATES = 1024  # a top-p nucleus is nearly always smaller; for a larger one the whole vocabulary is sorted
_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15  # constants of splitmix64: Steele, Lea, Flood 2014; the finaliser is Stafford's variant 13
_MIX = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))


def row_key(seed: int, position: int) -> int:
    """The key of one sample, as a signed 64-bit integer. position: number of tokens that the reply has so far."""
    return _signed(_mix(_mix(seed & _MASK) + position * _GOLDEN))


def gumbel(keys: Tensor, tokens: Tensor) -> Tensor:
    """Standard Gumbel noise as a pure function of key and token, the same on every device.

    keys: (R,) int64; tokens: (V,) or (R, K) int64. Returns (R, V) or (R, K) float64.
    """
    bits = tokens * _signed(_GOLDEN) + keys[:, None]  # int64 overflow wraps around, as intended
    for shift, factor in _MIX:
        bits ^= _shift_right(bits, shift)
        bits *= _signed(factor)
    bits ^= _shift_right(bits, 31)
    uniform = _shift_right(bits, 11).double().add_(0.5).mul_(2.0**-53)  # in the open interval (0, 1)
    return uniform.log_().neg_().log_().neg_()


def draw(
    logits: Tensor, temperature: Tensor, top_k: Tensor, top_p: Tensor, keys: Tensor, min_p: Tensor | None = None
) -> Tensor:
    """Sample one token for each row from softmax(logits / temperature), cut to the top k and then to the top-p nucleus.

    logits: (R, V); temperature: (R,) > 0; top_k: (R,) int64, 0 = all; top_p: (R,) in (0, 1]; keys: (R,) int64, of
    `row_key`; min_p: (R,) in [0, 1], drops tokens less likely than this share of the likeliest; None: drops none.
    Returns (R,) int64. Every row depends on its own values alone.
    """
    vocabulary = logits.shape[-1]
    scaled = logits.double() / temperature.double()[:, None]
    least = None if min_p is None else scaled.amax(-1, keepdim=True) + min_p.double().log()[:, None]
    drawn = torch.empty(len(logits), dtype=torch.long, device=logits.device)
    cut = (top_p < 1.0) | ((top_k > 0) & (top_k < vocabulary))
    left = _draw_cut(
        drawn, cut.nonzero()[:, 0], logits, scaled, top_k, top_p, keys, least, min(N_CANDIDATES, vocabulary)
    )
    _draw_cut(drawn, left, logits, scaled, top_k, top_p, keys, least, vocabulary)
    whole = (~cut).nonzero()[:, 0]
    if len(whole):
        tokens = torch.arange(vocabulary, device=logits.device)
        scores = _drop(scaled[whole], whole, least)
        drawn[whole] = (gumbel(keys[whole], tokens) + scores).argmax(-1)
    return drawn


def _draw_cut(
    drawn: Tensor,
    rows: Tensor,
    logits: Tensor,
    scaled: Tensor,
    top_k: Tensor,
    top_p: Tensor,
    keys: Tensor,
    least: Tensor | None,
    n_candidates: int,
) -> Tensor:
    """Sample for those of `rows` whose cut lies within their `n_candidates` likeliest tokens; returns the other rows.

    drawn: (R,) int64, written; rows: (N,) int64; scaled: (R, V) float64, logits / temperature; least: (R, 1), the
    smallest of them that may be drawn; the rest as in `draw`.
    """
    if not len(rows):
        return rows
    whole = scaled[rows]
    tokens = logits[rows].topk(n_candidates).indices  # (N, K), likeliest first
    scores = whole.gather(-1, tokens)
    k = top_k[rows][:, None]
    rank = torch.arange(n_candidates, device=scores.device)
    scores = scores.masked_fill((k > 0) & (rank >= k), -torch.inf)
    total = torch.where(k > 0, scores.logsumexp(-1, keepdim=True), whole.logsumexp(-1, keepdim=True))
    mass = (scores - total).exp().cumsum(-1)
    before = torch.cat([torch.zeros_like(mass[:, :1]), mass[:, :-1]], -1)
    scores = scores.masked_fill(before >= top_p[rows].double()[:, None], -torch.inf)
    scores = _drop(scores, rows, least)
    winner = (scores + gumbel(keys[rows], tokens)).argmax(-1, keepdim=True)
    found = tokens.gather(-1, winner)[:, 0]
    inside = torch.where(k[:, 0] > 0, k[:, 0] <= n_candidates, mass[:, -1] >= top_p[rows])
    inside |= n_candidates == logits.shape[-1]
    drawn[rows[inside]] = found[inside]
    return rows[~inside]


def _drop(scores: Tensor, rows: Tensor, least: Tensor | None) -> Tensor:
    return scores if least is None else scores.masked_fill(scores < least[rows], -torch.inf)


def _mix(bits: int) -> int:
    bits = (bits + _GOLDEN) & _MASK
    for shift, factor in _MIX:
        bits = ((bits ^ (bits >> shift)) * factor) & _MASK
    return bits ^ (bits >> 31)


def _signed(bits: int) -> int:
    """The 64 bits read as torch's signed int64."""
    bits &= _MASK
    return bits - (1 << 64) if bits >> 63 else bits


def _shift_right(bits: Tensor, n: int) -> Tensor:
    """Logical shift; torch's own operator is arithmetic and copies the sign bit."""
    return (bits >> n) & ((1 << (64 - n)) - 1)


def choose_tokens(chats: Sequence[Any], logits: Tensor) -> Tensor:
    """The next token of each chat, (N,) int64, -1 where logits are no numbers. logits: (N, V) float32, changed.

    Chats that asked for log probabilities get those of their next token, and of the likeliest, in `last_logprobs`.
    """
    finite = logits.amax(-1).isfinite()
    valid = [(row, chat) for row, (chat, is_valid) in enumerate(zip(chats, finite.tolist(), strict=True)) if is_valid]
    logprobs = {row: log_probabilities(logits[row]) for row, chat in valid if chat.request.n_logprobs is not None}
    for row, chat in valid:
        adjust(chat, row, logits)
    _sample([(row, chat) for row, chat in valid if chat.request.temperature > 0 and chat.forced_token is None], logits)
    for row, values in logprobs.items():
        chosen = float(values[logits[row].argmax()])
        chats[row].last_logprobs = chosen, likeliest(values, chats[row].request.n_logprobs or 0)
    return torch.where(finite, logits.argmax(-1), -1)


def _sample(sampled: Sequence[tuple[int, Any]], logits: Tensor) -> None:
    """Draw the tokens of these rows, and make them the argmax."""
    if not sampled:
        return
    tensor = functools.partial(torch.tensor, device=logits.device)
    rows = tensor([row for row, _ in sampled])
    requests = [chat.request for _, chat in sampled]
    min_p = [r.min_p for r in requests]
    tokens = draw(
        logits[rows],
        tensor([r.temperature for r in requests]),
        tensor([r.top_k for r in requests]),
        tensor([r.top_p for r in requests], dtype=torch.float64),
        tensor([row_key(chat.request.seed, chat.n_tokens) for _, chat in sampled]),
        tensor(min_p, dtype=torch.float64) if any(min_p) else None,
    )
    logits[rows, tokens] = torch.inf


def adjust(chat: Any, row: int, logits: Tensor) -> None:
    """Change one row of `logits` in place; nothing is done for settings that the request left alone. logits: (N, V)."""
    r = chat.request
    if r.logit_bias:
        add_bias(logits[row], r.logit_bias)
    if r.repetition_penalty != 1.0 or r.presence_penalty or r.frequency_penalty:
        logits[row] = penalize(
            logits[row],
            chat.prompt,
            chat.counts,
            repetition=r.repetition_penalty,
            presence=r.presence_penalty,
            frequency=r.frequency_penalty,
        )
    if chat.n_tokens < r.min_tokens:
        suppress(logits[row], chat.end_tokens)
    if chat.forced_token is not None:
        logits[row, chat.forced_token] = torch.inf


def add_bias(logits: Tensor, bias: Sequence[tuple[int, float]]) -> None:
    """Add to the logits of some tokens in place. Tokens that the model does not have are ignored. logits: (V,)."""
    known = [(token, value) for token, value in bias if 0 <= token < len(logits)]
    tokens = torch.tensor([token for token, _ in known], dtype=torch.long, device=logits.device)
    values = torch.tensor([value for _, value in known], dtype=logits.dtype, device=logits.device)
    logits.index_add_(0, tokens, values)


def penalize(
    logits: Tensor,
    prompt: Sequence[int],
    reply: Mapping[int, int],
    *,
    repetition: float = 1.0,
    presence: float = 0.0,
    frequency: float = 0.0,
) -> Tensor:
    """Return logits in which tokens that have occurred already are less likely.

    logits: (V,); prompt: its tokens; reply: occurrences of each token in the reply so far. Returns (V,), a new tensor.
    repetition divides positive and multiplies negative logits of tokens in prompt and reply (Keskar et al. 2019,
    arXiv:1909.05858). presence and frequency are subtracted for tokens of the reply alone, as OpenAI's API defines
    them.
    """
    penalized = logits.clone()
    if repetition != 1.0:
        seen = torch.tensor(sorted({*prompt, *reply}), dtype=torch.long, device=logits.device)
        scores = penalized[seen]
        penalized[seen] = torch.where(scores < 0, scores * repetition, scores / repetition)
    if reply and (presence or frequency):
        tokens = torch.tensor(list(reply), dtype=torch.long, device=logits.device)
        counts = torch.tensor(list(reply.values()), dtype=logits.dtype, device=logits.device)
        penalized[tokens] -= presence + frequency * counts
    return penalized


def suppress(logits: Tensor, tokens: Collection[int]) -> None:
    """Make tokens impossible, in place. logits: (V,)."""
    known = [token for token in tokens if 0 <= token < len(logits)]
    logits[torch.tensor(known, dtype=torch.long, device=logits.device)] = -torch.inf


def log_probabilities(logits: Tensor) -> Tensor:
    """Natural logarithms of the probabilities of all tokens. logits: (V,) float32. Returns (V,), a new tensor."""
    return logits.log_softmax(-1)


def likeliest(logprobs: Tensor, n: int) -> Likeliest:
    """The `n` likeliest tokens; of equally likely ones, those with the smaller numbers. logprobs: (V,)."""
    n = min(n, len(logprobs))
    if n == 0:
        return ()
    least = logprobs.topk(n).values[-1]
    tokens = (logprobs >= least).nonzero()[:, 0]  # more than n when several are as likely as the n-th
    ordered, order = torch.sort(logprobs[tokens], descending=True, stable=True)
    return tuple(zip(tokens[order][:n].tolist(), ordered[:n].tolist(), strict=True))
