"""What requests change in the logits: each change alone equals that of `generate` or of OpenAI's definition."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import RepetitionPenaltyLogitsProcessor, SequenceBiasLogitsProcessor

from pipelines.chat.sampling.penalties import Adjustments
from tests.support.sampled_chat import END_TOKENS, PROMPT, SampledChat, chat

VOCABULARY = 40
CPU = torch.device("cpu")


def adjustments(*chats: SampledChat) -> Adjustments:
    return Adjustments(chats, VOCABULARY, 1, CPU, {})  # type: ignore[arg-type]


def adjusted(logits: Tensor, *chats: SampledChat) -> Tensor:
    changed = logits.clone()
    adjustments(*chats).apply(changed)
    return changed


def normal(n_rows: int) -> Tensor:
    return torch.randn(n_rows, VOCABULARY, generator=torch.Generator().manual_seed(n_rows)) * 3


def test_repetition_penalty_equals_that_of_generate() -> None:
    logits = normal(1)
    expected = RepetitionPenaltyLogitsProcessor(1.3)(torch.tensor([[*PROMPT, 3, 3]]), logits.clone())
    torch.testing.assert_close(adjusted(logits, chat(3, 3, repetition_penalty=1.3)), expected)


def test_presence_and_frequency_count_the_reply_alone() -> None:
    changed = adjusted(torch.zeros(1, VOCABULARY), chat(3, 4, 4, 4, presence_penalty=0.5, frequency_penalty=0.25))
    assert changed[0, [3, 4]].tolist() == [-0.75, -1.25]
    assert changed.count_nonzero() == 2


def test_tokens_that_a_step_has_chosen_count_in_the_next() -> None:
    chats = [chat(3, frequency_penalty=0.25), chat(), chat(repetition_penalty=2.0)]
    changes = adjustments(*chats)
    changes.count(torch.tensor([3, 3, 5]))
    logits = torch.ones(3, VOCABULARY)
    changes.apply(logits)
    assert logits[0, 3] == 0.5
    assert logits[1].tolist() == [1.0] * VOCABULARY
    assert {token for token, value in enumerate(logits[2].tolist()) if value == 0.5} == {*PROMPT, 5}


def test_bias_equals_that_of_generate_and_ignores_tokens_that_the_model_does_not_have() -> None:
    logits, bias = normal(2), {0: 5.0, 2: -100.0}
    expected = SequenceBiasLogitsProcessor([[[token], value] for token, value in bias.items()])(
        torch.tensor([[0]]), logits[1:].clone()
    )
    changed = adjusted(logits, chat(), chat(logit_bias=(*bias.items(), (VOCABULARY, 7.0), (99, 7.0), (-1, 7.0))))
    assert torch.equal(changed[1:], expected)
    assert torch.equal(changed[0], logits[0])


def test_end_tokens_are_impossible_while_a_reply_is_too_short() -> None:
    changed = adjusted(normal(2), chat(9, 9, min_tokens=3), chat(9, 9, 9, min_tokens=3))
    assert changed.isneginf().nonzero().tolist() == [[0, token] for token in END_TOKENS]


def test_nothing_is_needed_for_chats_that_ask_for_nothing() -> None:
    assert not Adjustments.needed([chat(1, 2, temperature=1.0, top_p=0.5, min_tokens=2)])  # type: ignore[list-item]
    assert Adjustments.needed([chat(), chat(1, min_tokens=2)])  # type: ignore[list-item]
