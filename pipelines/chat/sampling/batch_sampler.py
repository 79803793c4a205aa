"""Chooses the next tokens of a batch of chats on the device: by one set of kernels for all rows, without waiting.

What the chats ask for is copied to the device when one joins or leaves. From then on a step needs nothing of the host
but the forced tokens, and which tokens grammars allow. Device thread only.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from pipelines import device as devices
from pipelines.chat.sampling.likeliest import Likeliest
from pipelines.chat.sampling.logprobs import Logprobs
from pipelines.chat.sampling.penalties import Adjustments, History
from pipelines.chat.sampling.token_masks import TokenMasks
from pipelines.chat.sampling.torch_choice import KEY_STEPS, TorchChoice
from pipelines.chat.sequence import ChatSequence
from pipelines.cuda_graphs import CaptureFailed

NOT_RECORDED = "The choice of tokens is not a CUDA graph, which makes one chat slower: {}"

_log = logging.getLogger(__name__)


class Choice(Protocol):
    """Chooses the tokens of the same rows step after step."""

    @property
    def n_steps(self) -> int:
        """How many steps it can choose for."""
        ...

    def judge(self, logits: Tensor) -> None:
        """Find out now whether the logits of each row are all numbers, because they will be changed before the call."""
        ...

    def __call__(self, logits: Tensor) -> Tensor:
        """The tokens, (N,) int64, until the next call; -1 for a row whose logits are not all numbers.

        logits: (N, V) float32, contiguous, not changed.
        """
        ...


class BatchSampler:
    """A `Sampler`: call it with the ids of chats and their logits (N, V) float32; it returns their tokens, (N,) int64.

    -1 stands for the token of a row whose logits are not all numbers. The logits may be changed. The tokens may change
    with the next call.
    """

    def __init__(self, chats: Mapping[str, ChatSequence], device: torch.device) -> None:
        """chats: those that run, by id. Each is asked for its tokens so far, so it must have been given all of them."""
        self._chats = chats
        self._kernels, self.notes = _kernels_for(device)  # a KernelChoice for all batches, or None
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

    @torch.inference_mode()
    def record(self, logits: Tensor, stream: Any) -> tuple[str, ...]:
        """Record the choice from the first rows of these logits, (N, V), as CUDA graphs; waits for the device.

        Returns notes for the model: why they cannot be recorded. Without graphs the tokens are the same.
        """
        self._plan = None
        if self._kernels is None:
            return ()
        try:
            self._kernels.record(logits, stream)
        except CaptureFailed as failure:
            return (NOT_RECORDED.format(failure),)
        return ()

    @property
    def n_bytes(self) -> int:
        """Of the device's memory, whatever the batch."""
        return 0 if self._kernels is None else int(self._kernels.n_bytes)

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
        adjusts, masks = Adjustments.needed(chats), TokenMasks.needed(chats)
        self._changes_logits = adjusts or masks
        requests = [chat.request for chat in chats]
        self._choice: Choice
        if kernels is None:
            self._choice = TorchChoice(requests, self._began, logits)
        else:
            kernels.begin(requests, self._began, vocabulary, is_judged=self._changes_logits)
            self._choice = kernels
        too_short = [chat.request.min_tokens - chat.n_tokens for chat in chats]
        self._n_steps = min([self._choice.n_steps, *(n for n in too_short if n > 0)])
        self._adjustments: Adjustments | None = None
        if adjusts:
            self._n_steps = min(self._n_steps, KEY_STEPS)  # there is room for so many tokens
            self._adjustments = Adjustments(chats, vocabulary, self._n_steps, device, known)
        self._masks = TokenMasks(chats, vocabulary, device) if masks else None
        asked = any(chat.request.n_logprobs is not None for chat in chats)
        self._logprobs = Logprobs(chats, vocabulary, device) if asked else None
        self._copied: Tensor | None = None  # log probabilities that are on their way to the host

    def fits(self, chats: Sequence[ChatSequence]) -> bool:
        """Whether these are the chats, and each has got the tokens that were chosen for it."""
        if self._step >= self._n_steps or len(chats) != len(self._chats):
            return False
        rows = zip(chats, self._chats, self._began, strict=True)
        return all(chat is mine and len(chat.tokens) == began + self._step for chat, mine, began in rows)

    def choose(self, logits: Tensor) -> Tensor:
        logprobs = None if self._logprobs is None else self._logprobs.read(logits)
        if self._changes_logits:
            self._choice.judge(logits)
        if self._adjustments is not None:
            self._adjustments.apply(logits)
        if self._masks is not None:
            self._masks.apply(logits)
        tokens = self._force(self._choice(logits))
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
        return torch.where((wanted >= 0) & (tokens >= 0), wanted, tokens)


def _kernels_for(device: torch.device) -> tuple[Any, tuple[str, ...]]:
    """A `KernelChoice`, if our own kernels run here, and notes for the model: why they do not."""
    if not devices.has_triton(device):
        return None, ()
    try:
        from pipelines.chat.sampling import kernel_choice  # needs Triton

        kernel_choice.check(device)
        return kernel_choice.KernelChoice(device), ()
    except Exception as error:  # Triton may lack a compiler or not know the device
        if devices.is_fatal(error):
            raise
        _log.warning("The kernels that choose tokens cannot be used; torch's operators are slower", exc_info=error)
        return None, ("Tokens are chosen without kernels of our own: slower.",)
