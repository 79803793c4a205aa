"""Chooses the next tokens of a batch of chats on the device: by one set of kernels for all rows, without waiting.

What the chats ask for is copied to the device when one joins or leaves. From then on a step needs nothing of the host
but the forced tokens, and which tokens grammars allow. Device thread only.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from pipelines import device as devices
from pipelines.chat.sampling.draw import Draw, n_candidates
from pipelines.chat.sampling.likeliest import Likeliest
from pipelines.chat.sampling.logprobs import Logprobs
from pipelines.chat.sampling.noise import row_keys
from pipelines.chat.sampling.penalties import Adjustments, History
from pipelines.chat.sampling.token_masks import TokenMasks
from pipelines.chat.sequence import ChatSequence

KEY_STEPS = 64  # steps for which the keys of the noise are computed at once

_log = logging.getLogger(__name__)


class BatchSampler:
    """A `Sampler`: call it with the ids of chats and their logits (N, V) float32; it returns their tokens, (N,) int64.

    -1 stands for the token of a row whose logits are not all numbers. The logits may be changed.
    """

    def __init__(self, chats: Mapping[str, ChatSequence], device: torch.device) -> None:
        """chats: those that run, by id. Each is asked for its tokens so far, so it must have been given all of them."""
        self._chats = chats
        self._kernels, self.notes = _kernels_for(device)
        self._plan: _Plan | None = None

    @torch.inference_mode()
    def __call__(self, ids: Sequence[str], logits: Tensor) -> Tensor:
        chats = [self._chats[chat_id] for chat_id in ids]
        if self._plan is None or not self._plan.fits(chats):
            known = {} if self._plan is None else self._plan.histories()
            self._plan = _Plan(chats, logits, known, self._kernels)
        return self._plan.choose(logits.contiguous())

    def take_logprobs(self) -> Mapping[str, tuple[float, Likeliest]]:
        """The log probabilities of the last tokens of the chats that asked for them: of the token, of the likeliest.

        They arrive before the tokens, so call it when the tokens have arrived.
        """
        return {} if self._plan is None else self._plan.take_logprobs()

    def forget(self) -> None:
        """Free what is held for the chats; the next call copies it again."""
        self._plan = None


class _Plan:
    """How tokens are chosen for these chats, until one joins or leaves, or a setting ceases to apply."""

    def __init__(
        self, chats: Sequence[ChatSequence], logits: Tensor, known: Mapping[str, History], kernels: Any
    ) -> None:
        device, vocabulary = logits.device, logits.shape[-1]
        self._chats = chats
        self._device = device
        self._began = [chat.n_tokens for chat in chats]
        self._step = 0
        too_short = [chat.request.min_tokens - chat.n_tokens for chat in chats]
        self._n_steps = min([KEY_STEPS, *(n for n in too_short if n > 0)])
        self._adjustments: Adjustments | None = None
        if Adjustments.needed(chats):
            self._adjustments = Adjustments(chats, vocabulary, self._n_steps, device, known)
        self._masks = TokenMasks(chats, vocabulary, device) if TokenMasks.needed(chats) else None
        asked = any(chat.request.n_logprobs is not None for chat in chats)
        self._logprobs = Logprobs(chats, vocabulary, device) if asked else None
        self._copied: Tensor | None = None  # log probabilities that are on their way to the host
        sampled: dict[int, list[int]] = {}  # number of candidates → rows
        for row, chat in enumerate(chats):
            if chat.request.temperature > 0:
                sampled.setdefault(n_candidates(chat.request, vocabulary), []).append(row)
        self._draws = [_Rows(chats, rows, n, logits, kernels) for n, rows in sampled.items()]
        self._any_greedy = sum(map(len, sampled.values())) < len(chats)

    def fits(self, chats: Sequence[ChatSequence]) -> bool:
        """Whether these are the chats, and each has got the tokens that were chosen for it."""
        if self._step >= self._n_steps or len(chats) != len(self._chats):
            return False
        rows = zip(chats, self._chats, self._began, strict=True)
        return all(chat is mine and len(chat.tokens) == began + self._step for chat, mine, began in rows)

    def choose(self, logits: Tensor) -> Tensor:
        tokens = logits.argmax(-1)
        best = logits.gather(-1, tokens[:, None])[:, 0]  # NaN, if there is one in the row
        logprobs = None if self._logprobs is None else self._logprobs.read(logits)
        if self._adjustments is not None:
            self._adjustments.apply(logits)
        if self._masks is not None:
            self._masks.apply(logits)
        if self._any_greedy and (self._adjustments is not None or self._masks is not None):
            tokens = logits.argmax(-1)
        for draw in self._draws:
            tokens = draw.into(tokens, logits, self._step)
        tokens = self._force(tokens)
        tokens.masked_fill_((best - best) != 0, -1)  # not 0 for infinity and NaN
        if self._adjustments is not None:
            self._adjustments.count(tokens)
        if self._logprobs is not None and logprobs is not None:
            self._copied = self._logprobs.begin_copy(logprobs, tokens)
        self._step += 1
        return tokens

    def take_logprobs(self) -> Mapping[str, tuple[float, Likeliest]]:
        copied, self._copied = self._copied, None
        return {} if copied is None or self._logprobs is None else self._logprobs.take(copied)

    def histories(self) -> Mapping[str, History]:
        """Those of the chats that have got the tokens that were chosen for them."""
        if self._adjustments is None:
            return {}
        rows = zip(self._chats, self._began, strict=True)
        current = {chat.id for chat, began in rows if chat.n_tokens == began + self._step}
        return {chat_id: one for chat_id, one in self._adjustments.histories().items() if chat_id in current}

    def _force(self, tokens: Tensor) -> Tensor:
        forced = [chat.forced_token for chat in self._chats]
        if forced.count(None) == len(forced):
            return tokens
        wanted = devices.upload(torch.tensor([-1 if token is None else token for token in forced]), self._device)
        return torch.where(wanted >= 0, wanted, tokens)


class _Rows:
    """Rows of a batch that are drawn alike, with the keys of their noise for the next steps."""

    def __init__(
        self, chats: Sequence[ChatSequence], rows: Sequence[int], n_candidates: int, logits: Tensor, kernels: Any
    ) -> None:
        drawn = [chats[row] for row in rows]
        requests = [chat.request for chat in drawn]
        self._draw = Draw(requests, n_candidates, logits.shape[-1], logits.device, kernels)
        keys = row_keys([r.seed for r in requests], [chat.n_tokens for chat in drawn], KEY_STEPS)
        self._keys = devices.upload(keys.T.contiguous(), logits.device)  # (step, row)
        self._rows = None if len(rows) == len(chats) else devices.upload(torch.tensor(rows), logits.device)  # None: all

    def into(self, tokens: Tensor, logits: Tensor, step: int) -> Tensor:
        """The tokens with those of these rows drawn. tokens: (N,) int64, may be changed; logits: (N, V)."""
        if self._rows is None:
            return self._draw(logits, self._keys[step])
        return tokens.index_copy_(0, self._rows, self._draw(logits.index_select(0, self._rows), self._keys[step]))


def _kernels_for(device: torch.device) -> tuple[Any, tuple[str, ...]]:
    """The module of our own kernels, if they run here, and notes for the model: why they do not."""
    if not devices.has_triton(device):
        return None, ()
    try:
        from pipelines.chat.sampling import triton_kernels  # needs Triton

        triton_kernels.check(device)
    except Exception as error:  # Triton may lack a compiler or not know the device
        if devices.is_fatal(error):
            raise
        _log.warning("The kernels that choose tokens cannot be used; torch's operators are slower", exc_info=error)
        return None, ("Tokens are chosen without kernels of our own: slower.",)
    return triton_kernels, ()
