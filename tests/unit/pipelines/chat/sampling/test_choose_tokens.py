"""The next token of each chat: by its own settings, in the order that is promised, whoever shares the batch."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers import (
    MinNewTokensLengthLogitsProcessor,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from pipelines.chat.sampling.batch_sampler import BatchSampler
from pipelines.chat.sampling.noise import gumbel_of_all, row_keys
from tests.support.sampled_chat import END_TOKENS, SampledChat, chat

VOCABULARY = 40


def row_of(seed: int) -> Tensor:
    return torch.randn(VOCABULARY, generator=torch.Generator().manual_seed(seed)) * 3


def chosen(chats: list[SampledChat], rows: list[Tensor]) -> list[int]:
    """The tokens of chats that share a batch. Their log probabilities go to `last_logprobs`."""
    running = {str(index): one for index, one in enumerate(chats)}
    for name, one in running.items():
        one.request = replace(one.request, id=name)
    sampler = BatchSampler(running, torch.device("cpu"))  # type: ignore[arg-type]
    tokens: list[int] = sampler([*running], torch.stack(rows)).tolist()
    told = sampler.take_logprobs()
    for name, one in running.items():
        one.last_logprobs = told.get(name)
    return tokens


def expected(one: SampledChat, row: Tensor) -> int:
    """The token by transformers' own processors, with the noise that the chat's seed gives."""
    r = one.request
    seen = torch.tensor([[*one.prompt, *one.tokens]])
    scores = row[None].clone()
    if r.logit_bias:
        scores = SequenceBiasLogitsProcessor([[[token], value] for token, value in r.logit_bias])(seen, scores)
    scores = RepetitionPenaltyLogitsProcessor(r.repetition_penalty)(seen, scores)
    for token, count in one.counts.items():
        scores[0, token] -= r.presence_penalty + r.frequency_penalty * count
    few = MinNewTokensLengthLogitsProcessor(len(one.prompt), r.min_tokens, list(END_TOKENS), device="cpu")
    scores = few(seen, scores)
    if one.forced_token is not None:
        return one.forced_token
    if r.temperature == 0:
        return int(scores.argmax())
    scores = TemperatureLogitsWarper(r.temperature)(seen, scores.double())
    if r.top_k:
        scores = TopKLogitsWarper(r.top_k)(seen, scores)
    scores = TopPLogitsWarper(r.top_p)(seen, scores)
    scores = MinPLogitsWarper(r.min_p)(seen, scores)
    noise = gumbel_of_all(row_keys([r.seed], [one.n_tokens], 1)[:, 0], VOCABULARY)
    return int((scores + noise).argmax())


TOKENS = st.integers(0, VOCABULARY - 1)
CHATS = st.builds(
    chat,
    *[TOKENS] * 3,
    forced_token=st.none() | st.none() | TOKENS,
    temperature=st.sampled_from([0.0, 0.25, 1.0, 2.0]),
    top_k=st.sampled_from([0, 1, 7, 100]),
    top_p=st.sampled_from([0.15, 0.85, 1.0]),
    min_p=st.sampled_from([0.0, 0.07, 0.6]),
    seed=st.integers(0, 2**63 - 1),
    min_tokens=st.sampled_from([0, 3, 4]),
    repetition_penalty=st.sampled_from([1.0, 1.5]),
    presence_penalty=st.sampled_from([0.0, 1.25]),
    frequency_penalty=st.sampled_from([0.0, -0.75]),
    logit_bias=st.lists(
        st.tuples(TOKENS, st.sampled_from([-100.0, 3.5, 100.0])), max_size=3, unique_by=lambda x: x[0]
    ).map(tuple),
    n_logprobs=st.sampled_from([None, 0, 5]),
)


@given(st.lists(st.tuples(CHATS, st.integers(0, 1_000)), min_size=1, max_size=5))
def test_each_chat_gets_the_token_of_the_reference_whatever_shares_the_batch(
    batch: list[tuple[SampledChat, int]],
) -> None:
    chats, rows = [one for one, _ in batch], [row_of(seed) for _, seed in batch]

    together = chosen(chats, rows)

    assert together == [expected(one, row) for one, row in zip(chats, rows, strict=True)]
    for one, row, token in zip(chats, rows, together, strict=True):
        told, n = one.last_logprobs, one.request.n_logprobs
        if n is None:
            assert told is None
            continue
        assert chosen([one], [row]) == [token]
        assert told == one.last_logprobs, "the same alone"
        logprobs = row.log_softmax(-1)
        assert told is not None
        assert told[0] == pytest.approx(float(logprobs[token]), abs=1e-5)
        assert [pair[0] for pair in told[1]] == logprobs.topk(n).indices.tolist()
        assert [pair[1] for pair in told[1]] == pytest.approx(logprobs.topk(n).values.tolist(), abs=1e-5)


def test_a_forced_token_wins_over_everything() -> None:
    one = chat(forced_token=2, logit_bias=((2, -100.0),), min_tokens=9, temperature=1.0, top_k=1, n_logprobs=1)
    row = row_of(1)
    assert chosen([one], [row]) == [2]
    assert one.last_logprobs is not None
    assert one.last_logprobs[0] == pytest.approx(float(row.log_softmax(-1)[2]))


def test_end_tokens_come_once_the_reply_is_long_enough() -> None:
    row = row_of(2)
    row[2] = 90.0
    row[5] = 80.0
    row[9] = 70.0
    assert chosen([chat(8, 8, min_tokens=3)], [row]) == [9]
    assert chosen([chat(8, 8, 8, min_tokens=3)], [row]) == [2]


def test_biased_tokens_beyond_the_vocabulary_are_ignored() -> None:
    row = row_of(3)
    assert chosen([chat(logit_bias=((VOCABULARY, 100.0),))], [row]) == [int(row.argmax())]


def test_logits_that_are_not_numbers_are_reported_for_their_own_chat_alone() -> None:
    bad = row_of(6)
    bad[3] = torch.nan
    chats = [chat(temperature=1.0, n_logprobs=2, min_p=0.5, logit_bias=((1, 2.0),)), chat(n_logprobs=2)]
    assert chosen(chats, [bad, row_of(7)]) == [-1, int(row_of(7).argmax())]


def test_tied_logits_are_listed_by_number_whatever_the_batch() -> None:
    row = torch.tensor([random.Random(i).choice([0.0, 1.0]) for i in range(VOCABULARY)])
    one = chat(n_logprobs=3)
    chosen([chat(n_logprobs=7), one], [row_of(8), row])
    assert one.last_logprobs is not None
    ones = [i for i, value in enumerate(row.tolist()) if value == 1.0]
    assert [token for token, _ in one.last_logprobs[1]] == ones[:3]
