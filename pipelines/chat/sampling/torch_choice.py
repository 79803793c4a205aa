"""Chooses the tokens of a batch with torch's own operators, which run everywhere."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pipelines import device as devices
from pipelines.chat.sampling.draw import Draw, n_candidates
from pipelines.chat.sampling.noise import row_keys
from pipelines.chat_interface import ChatRequest

KEY_STEPS = 64  # steps for which the keys of the noise are computed at once


class TorchChoice:
    """A `Choice` (see `batch_sampler`) for these rows and their next `KEY_STEPS` tokens."""

    n_steps = KEY_STEPS

    def __init__(self, requests: Sequence[ChatRequest], positions: Sequence[int], logits: Tensor) -> None:
        """positions: as of `row_keys`; logits: (N, V), as those to choose from."""
        sampled: dict[int, list[int]] = {}  # number of candidates → rows
        for row, request in enumerate(requests):
            if request.temperature > 0:
                sampled.setdefault(n_candidates(request, logits.shape[-1]), []).append(row)
        self._draws = [_Rows(requests, positions, rows, n, logits) for n, rows in sampled.items()]
        self._any_greedy = sum(map(len, sampled.values())) < len(requests)
        self._step = 0
        self._invalid: Tensor | None = None

    def judge(self, logits: Tensor) -> None:
        best = logits.amax(-1)  # NaN, if there is one in the row
        self._invalid = (best - best) != 0  # not 0 for infinity and NaN

    def __call__(self, logits: Tensor) -> Tensor:
        if self._invalid is None:
            tokens = logits.argmax(-1)
            best = logits.gather(-1, tokens[:, None])[:, 0]
            invalid = (best - best) != 0
        else:
            invalid, self._invalid = self._invalid, None
            tokens = logits.argmax(-1) if self._any_greedy else torch.empty_like(invalid, dtype=torch.long)
        for draw in self._draws:
            tokens = draw.into(tokens, logits, self._step)
        self._step += 1
        return tokens.masked_fill_(invalid, -1)


class _Rows:
    """Rows of a batch that are drawn alike, with the keys of their noise for the next steps."""

    def __init__(
        self,
        requests: Sequence[ChatRequest],
        positions: Sequence[int],
        rows: Sequence[int],
        n_candidates: int,
        logits: Tensor,
    ) -> None:
        drawn = [requests[row] for row in rows]
        self._draw = Draw(drawn, n_candidates, logits.shape[-1], logits.device)
        keys = row_keys([request.seed for request in drawn], [positions[row] for row in rows], KEY_STEPS)
        self._keys = devices.upload(keys.T.contiguous(), logits.device)  # (step, row)
        self._rows = None if len(rows) == len(requests) else devices.upload(torch.tensor(rows), logits.device)

    def into(self, tokens: Tensor, logits: Tensor, step: int) -> Tensor:
        """The tokens with those of these rows drawn. tokens: (N,) int64, may be changed; logits: (N, V)."""
        if self._rows is None:
            return self._draw(logits, self._keys[step])
        return tokens.index_copy_(0, self._rows, self._draw(logits.index_select(0, self._rows), self._keys[step]))
