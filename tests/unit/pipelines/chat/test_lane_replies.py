"""What a lane's replies hold besides text: thinking and its budget, log probabilities, end tokens of the request."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from pipelines.chat.lane import ChatLane
from pipelines.chat_interface import ChatRequest
from pipelines.interface import Replied, TextDelta
from tests.support.lanes.chat_play import chat, play, reply
from tests.support.lanes.tiny_chat import TEMPLATE, tiny_lane, tiny_model, tiny_tokenizer
from tests.support.prompts import asked

pytestmark = pytest.mark.usefixtures("one_thread")

CLOSING = "\n</think>\n\n"


@pytest.fixture
def thinker(model: Any) -> ChatLane:
    """A model whose template opens the thinking of each reply; being random, it never ends it by itself."""
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = TEMPLATE.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}")
    return ChatLane(model, tokenizer, cache_bytes=4 << 20)


def ask(lane: ChatLane, **settings: Any) -> ChatRequest:
    return ChatRequest(id="t", prompt=asked(lane.tokenizer, "hello"), **{"max_tokens": 40, **settings})


def test_a_reply_that_never_ends_its_thinking_has_no_content(thinker: ChatLane) -> None:
    end = reply(thinker, ask(thinker))
    assert (end.text, end.thinking_tokens, end.completion_tokens, end.finish_reason) == ("", 40, 40, "length")
    assert end.thinking


def test_a_budget_makes_the_model_answer_and_counts_what_it_thought(thinker: ChatLane) -> None:
    free, limited = reply(thinker, ask(thinker)), reply(thinker, ask(thinker, max_thinking_tokens=7))
    updates = play(thinker, [ask(thinker, max_thinking_tokens=7)])

    assert free.thinking.startswith(limited.thinking)
    assert 0 < len(limited.thinking) <= 7
    assert limited.text, "the rest of the reply is content"
    n_closing = len(CLOSING.strip())  # the tokenizer has one token per character
    assert 7 < limited.thinking_tokens <= 7 + n_closing + 1
    assert limited.completion_tokens == 40
    pieces = [(u.section, u.text) for u in updates if isinstance(u, TextDelta)]
    for section, whole in (("thinking", limited.thinking), ("content", limited.text)):
        assert "".join(text for of, text in pieces if of == section) == whole


def test_a_budget_of_no_token_still_closes_what_the_prompt_has_opened(thinker: ChatLane) -> None:
    end = reply(thinker, ask(thinker, max_thinking_tokens=0))
    assert end.thinking == ""
    assert end.text


def test_a_budget_changes_nothing_for_a_model_that_does_not_think(lane: ChatLane) -> None:
    assert reply(lane, chat("a")) == reply(lane, chat("a", max_thinking_tokens=0))


def test_log_probabilities_are_those_of_the_models_own_logits(model: Any, lane: ChatLane) -> None:
    request = chat("a", max_tokens=6, n_logprobs=3, temperature=1.5, seed=4, presence_penalty=1.0)
    updates = play(lane, [request])
    end = next(u for u in updates if isinstance(u, Replied))
    found = [each for u in updates if isinstance(u, TextDelta) for each in u.logprobs]
    tokens = lane.tokenizer.encode(end.text)

    assert len(found) == len(tokens) == 6
    for position, each in enumerate(found):
        with torch.inference_mode():
            read = torch.tensor([[*request.prompt.tokens, *tokens[:position]]])
            expected = model(read).logits[0, -1].float().log_softmax(-1)
        assert each.chosen.text == end.text[position]
        assert each.chosen.utf8 == end.text[position].encode()
        assert each.chosen.logprob == pytest.approx(float(expected[tokens[position]]), abs=1e-3)
        assert [t.logprob for t in each.likeliest] == pytest.approx(expected.topk(3).values.tolist(), abs=1e-3)
        assert sum(math.exp(t.logprob) for t in each.likeliest) <= 1


def test_without_a_request_no_log_probabilities_are_sent(lane: ChatLane) -> None:
    assert all(not u.logprobs for u in play(lane, [chat("a")]) if isinstance(u, TextDelta))


def test_log_probabilities_leave_out_the_tokens_of_a_stop_string(lane: ChatLane) -> None:
    whole = reply(lane, chat("a", max_tokens=12)).text
    stop = whole[5:8]
    updates = play(lane, [chat("a", max_tokens=12, n_logprobs=0, stop=(stop,))])
    end = next(u for u in updates if isinstance(u, Replied))
    found = [each for u in updates if isinstance(u, TextDelta) for each in u.logprobs]

    assert "".join(each.chosen.text for each in found) == end.text == whole[: whole.index(stop)]
    assert end.stop_text == stop


def test_a_stop_token_of_the_request_ends_the_reply(lane: ChatLane) -> None:
    whole = reply(lane, chat("a", max_tokens=12)).text
    token = lane.tokenizer.encode(whole[4])[0]
    end = reply(lane, chat("a", max_tokens=12, stop_tokens=(token,)))
    assert end.stop_text is None
    assert end.text == whole[: whole.index(whole[4])]
    assert end.finish_reason == "stop"


def test_the_models_end_can_be_ignored_or_forbidden_for_some_tokens() -> None:
    model = tiny_model()
    with torch.no_grad():
        model.lm_head.weight[2] = 10 * model.lm_head.weight.abs().max() * torch.sign(model.lm_head.weight[3])
    lane = tiny_lane(model)
    by_itself = reply(lane, chat("a", max_tokens=12))
    request = chat("a", max_tokens=12)
    assert by_itself.finish_reason == "stop", "this model ends its reply early"
    later = reply(lane, replace(request, min_tokens=by_itself.completion_tokens + 3))
    ignored = reply(lane, replace(request, ignores_end=True))

    assert later.completion_tokens > by_itself.completion_tokens + 3
    assert (ignored.completion_tokens, ignored.finish_reason) == (12, "length")
