"""Log probabilities: those of the model, and the likeliest tokens in an order that does not depend on ties."""

from __future__ import annotations

import math

import pytest
import torch

from pipelines.chat.logprobs import likeliest, log_probabilities


def test_log_probabilities_are_natural_logarithms_of_the_softmax() -> None:
    logits = torch.tensor([0.5, -3.0, 2.0])
    total = sum(math.exp(value) for value in logits.tolist())
    expected = [math.log(math.exp(value) / total) for value in logits.tolist()]
    assert log_probabilities(logits).tolist() == pytest.approx(expected, abs=1e-6)


def test_likeliest_tokens_come_first_and_equally_likely_ones_by_their_number() -> None:
    values = torch.tensor([-2.0, -1.0, -3.0, -1.0, -2.0, -2.0])
    assert likeliest(values, 4) == ((1, -1.0), (3, -1.0), (0, -2.0), (4, -2.0))


def test_fewer_tokens_than_asked_for_are_all_there_are() -> None:
    assert likeliest(torch.tensor([-1.0, -0.5]), 20) == ((1, -0.5), (0, -1.0))
    assert likeliest(torch.tensor([-1.0, -0.5]), 0) == ()
