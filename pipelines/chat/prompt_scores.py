"""Log probabilities of the tokens of prompts, from the same forwards that read them. Device thread only.

A forward computes logits where a sequence gets its next token, and nowhere else. For a prompt that is to be scored it
computes them behind each token, but never for more tokens than one forward reads. Of these logits only what was asked
for leaves the device.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from pipelines.chat.sampling.likeliest import Likeliest, likeliest_tokens
from pipelines.device import to_host, upload

SLICE_ROWS = 128  # whose probabilities are computed at once, in float32: 80 MB at 150,000 tokens


@dataclass(frozen=True, slots=True)
class TokenScore:
    """How likely the model takes one token of a prompt to be, as following those before it."""

    token: int
    logprob: float  # as `TokenText.logprob`; not a number if the model's logits are not
    likeliest: Likeliest  # as many as were asked for


@dataclass(frozen=True, slots=True)
class PromptPart:
    """The scores that one forward gave of a prompt."""

    begin: int  # how many of the prompt's tokens were scored before; its first token has no score
    scores: tuple[TokenScore, ...]


@dataclass(frozen=True, slots=True)
class _Read:
    """What a forward reads of a prompt that is to be scored."""

    sequence_id: str
    begin: int  # as in `PromptPart`
    row: int  # of the forward's first token of this prompt
    targets: Sequence[int]  # the tokens that follow in the prompt; for the prompt's last token none does


class PromptScorer:
    """Knows the prompts in a batch that are to be scored."""

    def __init__(self) -> None:
        self._wanted: dict[str, tuple[Sequence[int], int]] = {}  # sequence → its prompt, likeliest tokens at each place

    def __contains__(self, sequence_id: str) -> bool:
        return sequence_id in self._wanted

    def add(self, sequence_id: str, prompt: Sequence[int], n_likeliest: int) -> None:
        self._wanted[sequence_id] = prompt, n_likeliest

    def remove(self, sequence_id: str) -> None:
        self._wanted.pop(sequence_id, None)

    def forward(self, read: Sequence[tuple[str, int, int]]) -> ForwardScores | None:
        """What to score in a forward; None for nothing.

        read: for each sequence in the forward, in order: its id, how many of its tokens were read before, how many are
        read now.
        """
        found, row = [], 0
        for sequence_id, begin, n_read in read:
            if sequence_id in self._wanted:
                targets = self._wanted[sequence_id][0][begin + 1 : begin + 1 + n_read]
                if targets:
                    found.append(_Read(sequence_id, begin, row, targets))
            row += n_read
        return ForwardScores(found, [self._wanted[each.sequence_id][1] for each in found]) if found else None


class ForwardScores:
    """The scores of one forward: `compute` on the device, then `take` on the host."""

    def __init__(self, reads: Sequence[_Read], n_likeliest: Sequence[int]) -> None:
        self._reads, self._n_likeliest = reads, n_likeliest
        self._most = max(n_likeliest)
        self._computed: Tensor | None = None

    @property
    def rows(self) -> Sequence[int]:
        """The tokens in the forward behind which logits are needed, by their places in it."""
        return [each.row + i for each in self._reads for i in range(len(each.targets))]

    def compute(self, logits: Tensor) -> None:
        """logits: (rows, vocabulary), of the model's type."""
        targets = upload(torch.tensor([token for each in self._reads for token in each.targets]), logits.device)
        self._most = min(self._most, logits.shape[-1])
        pieces = zip(logits.split(SLICE_ROWS), targets.split(SLICE_ROWS), strict=True)
        self._computed = torch.cat([_scores(piece, aimed, self._most) for piece, aimed in pieces])

    def take(self) -> Mapping[str, PromptPart]:
        """By sequence. Waits for the device."""
        assert self._computed is not None
        table, self._computed = iter(to_host(self._computed).tolist()), None
        taken = {}
        for each, n in zip(self._reads, self._n_likeliest, strict=True):
            rows = zip(each.targets, table, strict=False)  # the targets end first
            taken[each.sequence_id] = PromptPart(each.begin, tuple(self._score(token, row, n) for token, row in rows))
        return taken

    def _score(self, token: int, row: Sequence[float], n: int) -> TokenScore:
        n = min(n, self._most)
        values, tokens = row[1 : 1 + n], row[1 + self._most : 1 + self._most + n]
        return TokenScore(token, row[0], tuple(zip(map(int, tokens), values, strict=True)))


class ScoringModel:
    """Stands in for the model in a forward of transformers' continuous batching, and computes more logits."""

    def __init__(self, model: Any, scores: ForwardScores) -> None:
        self._model, self._scores = model, scores

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def __call__(self, **batch: Any) -> Any:
        """The output, with the logits that the batch asks for."""
        rows = upload(torch.tensor(self._scores.rows, dtype=torch.int32), self._model.device)
        wanted = batch.get("logits_to_keep")
        if wanted is None:  # this model always computes all
            logits = self._model(**batch).logits
            self._scores.compute(logits[0].index_select(0, rows))
            return SimpleNamespace(logits=logits)
        logits = self._model(**{**batch, "logits_to_keep": torch.cat([wanted, rows])}).logits
        self._scores.compute(logits[0, len(wanted) :])
        return SimpleNamespace(logits=logits[:, : len(wanted)])


def _scores(logits: Tensor, targets: Tensor, n: int) -> Tensor:
    """(N, 1 + 2 * n) float64: log probabilities of the targets and of the `n` likeliest, and the numbers of those.

    logits: (N, vocabulary); targets: (N,) int64.
    """
    logprobs = logits.float().log_softmax(-1)
    columns = [logprobs.gather(-1, targets[:, None]).double()]
    if n:
        likeliest = likeliest_tokens(logprobs, n)
        columns += [logprobs.gather(-1, likeliest).double(), likeliest.double()]
    return torch.cat(columns, -1)
