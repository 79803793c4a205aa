"""Log probabilities: those of the model, and the likeliest tokens in an order that does not depend on ties."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pipelines.chat.sampling.likeliest import Likeliest, likeliest_tokens
from pipelines.chat.sampling.logprobs import Logprobs
from tests.support.sampled_chat import chat


def told(logits: Tensor, *n_logprobs: int | None) -> dict[str, tuple[float, Likeliest]]:
    """The log probabilities of chats that have all chosen token 1."""
    chats = [chat(id=str(index), n_logprobs=n) for index, n in enumerate(n_logprobs)]
    logprobs = Logprobs(chats, logits.shape[-1], torch.device("cpu"))  # type: ignore[arg-type]
    tokens = torch.ones(len(chats), dtype=torch.long)
    return dict(logprobs.take(logprobs.begin_copy(logprobs.read(logits), tokens)))


def test_log_probabilities_are_natural_logarithms_of_the_softmax() -> None:
    logits = torch.tensor([[0.5, -3.0, 2.0], [0.0, 0.0, 0.0]])
    total = sum(math.exp(value) for value in logits[0].tolist())
    expected = [math.log(math.exp(value) / total) for value in logits[0].tolist()]
    both = told(logits, 3, 1)
    assert both["0"][0] == pytest.approx(expected[1], abs=1e-6)
    assert dict(both["0"][1]) == pytest.approx(dict(enumerate(expected)), abs=1e-6)
    assert both["1"] == (pytest.approx(-math.log(3)), ((0, pytest.approx(-math.log(3))),))


def test_likeliest_tokens_come_first_and_equally_likely_ones_by_their_number() -> None:
    values = torch.tensor([[-2.0, -1.0, -3.0, -1.0, -2.0, -2.0], [-5.0, -torch.inf, 0.0, 0.5, -torch.inf, -0.1]])
    assert likeliest_tokens(values, 4).tolist() == [[1, 3, 0, 4], [3, 2, 5, 0]]
    assert likeliest_tokens(values, 6)[1].tolist() == [3, 2, 5, 0, 1, 4]


def test_each_chat_gets_as_many_tokens_as_it_asked_for_and_there_are() -> None:
    found = told(torch.tensor([[-1.0, -0.5]] * 4), 20, 0, None, 1)
    assert {name: [token for token, _ in likeliest] for name, (_, likeliest) in found.items()} == {
        "0": [1, 0],
        "1": [],
        "3": [1],
    }
