"""What a request changes in the logits: each change alone equals that of `generate` or of OpenAI's definition."""

from __future__ import annotations

import torch
from transformers import RepetitionPenaltyLogitsProcessor, SequenceBiasLogitsProcessor

from pipelines.chat.penalties import add_bias, penalize, suppress


def test_repetition_penalty_equals_that_of_generate() -> None:
    logits = torch.tensor([1.0, -1.0, 2.0, -2.0, 0.5])
    expected = RepetitionPenaltyLogitsProcessor(1.3)(torch.tensor([[0, 1, 3, 3]]), logits[None].clone())[0]
    torch.testing.assert_close(penalize(logits, [0, 1], {3: 2}, repetition=1.3), expected)


def test_presence_and_frequency_count_the_reply_alone() -> None:
    logits = torch.zeros(4)
    penalized = penalize(logits, [0], {1: 1, 2: 3}, presence=0.5, frequency=0.25)
    assert penalized.tolist() == [0.0, -0.75, -1.25, 0.0]
    assert logits.tolist() == [0.0] * 4


def test_bias_equals_that_of_generate_and_ignores_tokens_that_the_model_does_not_have() -> None:
    logits = torch.tensor([1.0, -1.0, 2.0, -2.0])
    bias = {0: 5.0, 2: -100.0}
    expected = SequenceBiasLogitsProcessor([[[token], value] for token, value in bias.items()])(
        torch.tensor([[0]]), logits[None].clone()
    )[0]
    add_bias(logits, (*bias.items(), (4, 7.0), (99, 7.0), (-1, 7.0)))
    assert torch.equal(logits, expected)


def test_suppressed_tokens_are_impossible_and_others_unchanged() -> None:
    logits = torch.tensor([1.0, -1.0, 2.0])
    suppress(logits, {2, 7})
    assert logits.tolist() == [1.0, -1.0, -torch.inf]
