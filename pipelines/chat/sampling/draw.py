"""Draws the next tokens of several rows at once, each by its own settings and as if it were alone.

With torch's own operators. The shapes depend on the settings alone, except for nuclei wider than the candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pipelines.chat.sampling.noise import gumbel, gumbel_of_all
from pipelines.chat_interface import ChatRequest
from pipelines.device import upload

N_CANDIDATES = 1024  # a top-p nucleus is nearly always smaller; for a larger one the whole vocabulary is looked at


def n_candidates(request: ChatRequest, vocabulary: int) -> int:
    """How many of the likeliest tokens are looked at to cut by top-k and top-p; 0: neither cuts anything."""
    if request.top_p >= 1.0 and not 0 < request.top_k < vocabulary:
        return 0
    return vocabulary if request.top_k > N_CANDIDATES else min(N_CANDIDATES, vocabulary)


class Draw:
    """The settings of some rows, all with the same `n_candidates`, as tensors on the device."""

    def __init__(
        self, requests: Sequence[ChatRequest], n_candidates: int, vocabulary: int, device: torch.device
    ) -> None:
        self._n_candidates = n_candidates
        self._temperature = upload(torch.tensor([r.temperature for r in requests]).double()[:, None], device)
        min_p = torch.tensor([r.min_p for r in requests], dtype=torch.double)[:, None]
        self._log_min_p = upload(min_p.log(), device) if bool(min_p.any()) else None
        top_p = torch.tensor([r.top_p for r in requests], dtype=torch.double)[:, None]
        top_k = torch.tensor([r.top_k for r in requests])[:, None]
        has_k = top_k > 0
        self._top_p = upload(top_p, device)
        self._all_k = bool(has_k.all())
        self._has_k = self._beyond_k = None
        if bool(has_k.any()):
            self._has_k = upload(has_k, device)
            self._beyond_k = upload(has_k & (torch.arange(n_candidates) >= top_k), device)
        self._may_be_wide = 0 < n_candidates < vocabulary and not self._all_k

    def __call__(self, logits: Tensor, keys: Tensor) -> Tensor:
        """logits: (R, V) float32, not changed; keys: (R,) int64, of `row_keys`. Returns the tokens, (R,) int64."""
        if not self._n_candidates:
            return self._from_all(logits, keys)
        cut = _draw_cut(
            logits,
            keys,
            temperature=self._temperature,
            top_p=self._top_p,
            log_min_p=self._log_min_p,
            beyond_k=self._beyond_k,
            total=self._total,
            n_candidates=self._n_candidates,
        )
        if self._may_be_wide:
            self._draw_wide(cut, logits, keys)
        return cut.tokens

    def _from_all(self, logits: Tensor, keys: Tensor) -> Tensor:
        least = None
        if self._log_min_p is not None:
            least = logits.amax(-1, keepdim=True) / self._temperature + self._log_min_p
        scores = logits / self._temperature
        if least is not None:
            scores.masked_fill_(scores < least, -torch.inf)
        return gumbel_of_all(keys, logits.shape[-1]).add_(scores).argmax(-1)

    def _total(self, logits: Tensor, scores: Tensor) -> Tensor:
        """Logarithm of the mass that the shares of top-p are counted in: of the top k, or of all tokens."""
        if self._all_k:
            return scores.logsumexp(-1, keepdim=True)
        of_all = (logits / self._temperature).logsumexp(-1, keepdim=True)
        if self._has_k is None:
            return of_all
        return torch.where(self._has_k, scores.logsumexp(-1, keepdim=True), of_all)

    def _draw_wide(self, cut: _Cut, logits: Tensor, keys: Tensor) -> None:
        """Draw again for the rows whose nucleus is wider than the candidates. On a GPU the host waits."""
        wide = (cut.mass < self._top_p)[:, 0]
        if self._has_k is not None:
            wide &= ~self._has_k[:, 0]
        rows = wide.nonzero()[:, 0]
        if len(rows):
            cut.tokens[rows] = _draw_cut(
                logits[rows],
                keys[rows],
                temperature=self._temperature[rows],
                top_p=self._top_p[rows],
                log_min_p=None if self._log_min_p is None else self._log_min_p[rows],
                beyond_k=None,
                total=lambda *_: cut.total[rows],
                n_candidates=logits.shape[-1],
            ).tokens


class _Cut(NamedTuple):
    tokens: Tensor  # (R,) int64
    mass: Tensor  # (R, 1) float64: share of the candidates
    total: Tensor  # (R, 1) float64: logarithm of the mass that this is a share of


def _draw_cut(
    logits: Tensor,
    keys: Tensor,
    *,
    temperature: Tensor,
    top_p: Tensor,
    log_min_p: Tensor | None,
    beyond_k: Tensor | None,
    total: Any,
    n_candidates: int,
) -> _Cut:
    """Draw from the likeliest tokens: first cut to the top k, then to the top-p nucleus of what is left, then by min-p.

    logits: (R, V) float32; temperature, top_p, log_min_p: (R, 1) float64; beyond_k: (R, K) bool, of the candidates in
    order; total: (logits, scores of the candidates) → (R, 1) float64.
    """
    best, tokens = logits.topk(n_candidates)  # (R, K), likeliest first
    scores = best / temperature  # float64
    least = None if log_min_p is None else scores[:, :1] + log_min_p
    if beyond_k is not None:
        scores.masked_fill_(beyond_k, -torch.inf)
    log_total: Tensor = total(logits, scores)
    mass = (scores - log_total).exp_().cumsum(-1)
    scores[:, 1:].masked_fill_(mass[:, :-1] >= top_p, -torch.inf)  # what comes before them is enough
    if least is not None:
        scores.masked_fill_(scores < least, -torch.inf)
    noisy = gumbel(keys, tokens).add_(scores)
    return _Cut(tokens.gather(-1, noisy.argmax(-1, keepdim=True))[:, 0], mass[:, -1:], log_total)
