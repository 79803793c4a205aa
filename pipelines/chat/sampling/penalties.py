"""Changes the logits of a batch as its requests say, before the next tokens are chosen.

The order: logit bias, then the penalties, then end tokens while a reply is too short. What the penalties count is kept
on the device, and each step adds the tokens that it has chosen, so nothing is copied while the batch stays the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipelines.chat.sequence import ChatSequence
from pipelines.chat_interface import ChatRequest
from pipelines.device import upload


def has_penalty(request: ChatRequest) -> bool:
    return bool(request.repetition_penalty != 1.0 or request.presence_penalty or request.frequency_penalty)


@dataclass(frozen=True, slots=True)
class History:
    """What has occurred in one chat so far, on the device."""

    counts: Tensor  # (V,) float32: occurrences of each token in the reply
    occurred: Tensor  # (L,) int64: tokens of the reply and, if they count, of the prompt; some several times


class Adjustments:
    """The changes that the chats of one batch ask for."""

    def __init__(
        self,
        chats: Sequence[ChatSequence],
        vocabulary: int,
        n_steps: int,
        device: torch.device,
        known: Mapping[str, History],
    ) -> None:
        """n_steps: most tokens that will be counted.

        known: histories of chats that are up to date; those of the others are made from their tokens.
        """
        bias = [
            (row * vocabulary + token, value)
            for row, chat in enumerate(chats)
            for token, value in chat.request.logit_bias
            if 0 <= token < vocabulary  # tokens that the model does not have are ignored
        ]
        self._biased = _indices([index for index, _ in bias], device) if bias else None
        self._bias = upload(torch.tensor([value for _, value in bias]), device)
        suppressed = [
            row * vocabulary + token
            for row, chat in enumerate(chats)
            if chat.n_tokens < chat.request.min_tokens
            for token in chat.end_tokens
            if 0 <= token < vocabulary
        ]
        self._suppressed = _indices(suppressed, device) if suppressed else None
        rows = [row for row, chat in enumerate(chats) if has_penalty(chat.request)]
        self._penalties = _Penalties(chats, rows, vocabulary, n_steps, device, known) if rows else None

    @staticmethod
    def needed(chats: Sequence[ChatSequence]) -> bool:
        return any(
            chat.request.logit_bias or has_penalty(chat.request) or chat.n_tokens < chat.request.min_tokens
            for chat in chats
        )

    def apply(self, logits: Tensor) -> None:
        """Change the logits in place. logits: (N, V) float32, contiguous."""
        flat = logits.view(-1)
        if self._biased is not None:
            flat.index_add_(0, self._biased, self._bias)
        if self._penalties is not None:
            self._penalties.apply(logits)
        if self._suppressed is not None:
            flat.index_fill_(0, self._suppressed, -torch.inf)

    def count(self, tokens: Tensor) -> None:
        """Add the tokens that were chosen, (N,) int64, to the histories. Those below 0 count as any other token."""
        if self._penalties is not None:
            self._penalties.count(tokens)

    def histories(self) -> Mapping[str, History]:
        """The present histories, by chat."""
        return {} if self._penalties is None else self._penalties.histories()


class _Penalties:
    """Repetition, presence and frequency penalties of some rows.

    repetition divides positive and multiplies negative logits of tokens in prompt and reply (Keskar et al. 2019,
    arXiv:1909.05858). presence and frequency are subtracted for tokens of the reply alone, as OpenAI's API defines
    them. Only the logits of tokens that have occurred are touched: a few hundred of the vocabulary.
    """

    def __init__(
        self,
        chats: Sequence[ChatSequence],
        rows: Sequence[int],
        vocabulary: int,
        n_steps: int,
        device: torch.device,
        known: Mapping[str, History],
    ) -> None:
        """rows: of the chats with a penalty."""
        penalized = [chats[row] for row in rows]
        requests = [chat.request for chat in penalized]
        self._ids = [chat.id for chat in penalized]
        self._rows = _indices(rows, device)
        self._offsets = (self._rows * vocabulary)[:, None]  # of the rows in the logits, flat
        self._repetition = self._presence = self._frequency = None
        if any(r.repetition_penalty != 1.0 for r in requests):
            self._repetition = _column([r.repetition_penalty for r in requests], device)
        if any(r.presence_penalty or r.frequency_penalty for r in requests):
            self._presence = _column([r.presence_penalty for r in requests], device)
            self._frequency = _column([r.frequency_penalty for r in requests], device)
        histories = [known.get(chat.id) or history_of(chat, vocabulary, device) for chat in penalized]
        self._counts = torch.stack([history.counts for history in histories])  # (P, V)
        self._lengths = [len(history.occurred) for history in histories]
        self._width = max(self._lengths)
        self._n_counted = 0
        # Shorter rows are filled up with a token of theirs: it gets the same value several times.
        self._occurred = torch.stack([_filled_up(history.occurred, self._width + n_steps) for history in histories])
        self._ones = torch.ones(len(rows), 1, device=device)

    def apply(self, logits: Tensor) -> None:
        occurred = self._occurred[:, : self._width + self._n_counted]  # (P, L)
        where = occurred + self._offsets
        scores = logits.take(where)
        if self._repetition is not None:
            scores = torch.where(scores < 0, scores * self._repetition, scores / self._repetition)
        if self._presence is not None and self._frequency is not None:
            counts = self._counts.gather(1, occurred)
            scores -= (counts > 0) * self._presence + counts * self._frequency
        logits.put_(where, scores)

    def count(self, tokens: Tensor) -> None:
        chosen = tokens.index_select(0, self._rows).clamp_(min=0)[:, None]
        self._counts.scatter_add_(1, chosen, self._ones)
        column = self._width + self._n_counted
        self._occurred[:, column : column + 1] = chosen
        self._n_counted += 1

    def histories(self) -> Mapping[str, History]:
        added = self._occurred[:, self._width : self._width + self._n_counted]
        return {
            chat_id: History(counts, torch.cat([occurred[:length], new]))
            for chat_id, counts, occurred, length, new in zip(
                self._ids, self._counts, self._occurred, self._lengths, added, strict=True
            )
        }


def history_of(chat: ChatSequence, vocabulary: int, device: torch.device) -> History:
    """The history of a chat by its tokens on the host."""
    reply = torch.tensor(chat.tokens, dtype=torch.long)
    counts = reply.bincount(minlength=vocabulary).float()
    occurred = {*chat.tokens, *(chat.prompt if chat.request.repetition_penalty != 1.0 else ())}
    # At least one token. The others' penalties are nothing for a token that has not occurred.
    return History(upload(counts, device), upload(torch.tensor([*occurred] or [0]), device))


def _filled_up(occurred: Tensor, width: int) -> Tensor:
    return torch.cat([occurred, occurred[:1].expand(width - len(occurred))])


def _indices(values: Sequence[int], device: torch.device) -> Tensor:
    return upload(torch.tensor(values), device)


def _column(values: Sequence[float], device: torch.device) -> Tensor:
    return upload(torch.tensor(values)[:, None], device)
