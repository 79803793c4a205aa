"""Replies with grammars run in a batch with others: each has its form, and the others keep their tokens bit for bit."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pytest

from pipelines.chat.decode.options import DecodeOptions
from pipelines.chat_interface import ChatRequest, Grammar, TokenLogprobs
from pipelines.interface import Failed, Replied, TextDelta, Update
from tests.support.constrained import PERSON, constrained, schema_of
from tests.support.lanes.chat_play import chat, play, replies
from tests.support.lanes.tiny_chat import tiny_lane

pytestmark = pytest.mark.usefixtures("one_thread")
WORDS = Grammar("regex", "[a-z]{3} [0-9]{2}")
PERSONS = schema_of(PERSON)
LANES: dict[str, dict[str, Any]] = {
    "paged": {},
    "static": {"decode": DecodeOptions(static=True)},
    "in turn": {"decode": DecodeOptions(static=True, lookahead=False)},
    "unbatched": {"merging": "off"},
}
SETTINGS: list[dict[str, Any]] = [
    {},
    {"temperature": 1.0},
    {"temperature": 0.7, "top_p": 0.9},
    {"temperature": 1.3, "top_k": 7, "min_p": 0.05},
    {"repetition_penalty": 1.3, "presence_penalty": 0.5},
    {"temperature": 1.0, "frequency_penalty": 1.0, "logit_bias": ((40, 5.0), (41, -100.0))},
    {"temperature": 1.0, "n_logprobs": 3, "min_tokens": 6},
]


def neighbours() -> list[ChatRequest]:
    """Chats without a grammar, with all kinds of sampling."""
    return [chat(f"n{i}", f"tell {i}", max_tokens=10 + i, seed=i, **each) for i, each in enumerate(SETTINGS)]


def followers() -> list[ChatRequest]:
    """Chats with grammars, with all kinds of sampling."""
    return [
        constrained(f"g{i}", (WORDS, PERSONS)[i % 2], max_tokens=120, seed=i, **{**each, "min_tokens": 0})
        for i, each in enumerate(SETTINGS)
    ]


def check_person(text: str) -> None:
    person = json.loads(text)
    assert list(person) == ["name", "age"]
    assert isinstance(person["name"], str)
    assert 0 <= person["age"] <= 99


@pytest.mark.parametrize("kind", LANES)
def test_each_reply_has_its_form_and_neighbours_keep_their_tokens(model: Any, kind: str) -> None:
    alone = replies(tiny_lane(model, **LANES[kind]), neighbours())
    mixed = [each for pair in zip(followers(), neighbours(), strict=True) for each in pair]

    together = replies(tiny_lane(model, **LANES[kind]), mixed)

    assert {name: together[name] for name in alone} == alone
    for request in followers():
        reply = together[request.id]
        assert reply.finish_reason == "stop"
        if request.prompt.grammar == PERSONS:
            check_person(reply.text)
        else:
            assert re.fullmatch("[a-z]{3} [0-9]{2}", reply.text)


def test_tokens_with_a_grammar_are_the_same_in_each_kind_of_lane_and_alone(model: Any) -> None:
    expected = {r.id: replies(tiny_lane(model), [r])[r.id] for r in followers()}

    for options in LANES.values():
        assert replies(tiny_lane(model, **options), followers()) == expected


@pytest.mark.slow
def test_a_reply_that_is_put_back_goes_on_in_its_form(model: Any) -> None:
    expected = replies(tiny_lane(model), followers())
    lane = tiny_lane(model)
    for request in followers():
        lane.admit(request)
    updates: list[Update] = []
    for step in range(400):
        if not lane.has_work():
            break
        updates += lane.step()
        if step % 5 == 4:
            lane.resize_cache(4 << 20)  # all running chats are read in again

    assert {update.request_id: update for update in updates if isinstance(update, Replied)} == expected


def test_a_bias_chooses_among_what_the_grammar_allows_and_nothing_else(model: Any) -> None:
    grammar = Grammar("choice", '["red", "green", "blue"]')
    g, x = (replies_token(letter) for letter in "gx")

    (reply,) = replies(tiny_lane(model), [constrained("a", grammar, logit_bias=((g, 90.0), (x, 100.0)))]).values()

    assert reply.text == "green"


def replies_token(letter: str) -> int:
    from tests.support.lanes.chat_play import TOKENIZER

    return int(TOKENIZER.convert_tokens_to_ids(letter))


def test_log_probabilities_are_the_models_own(model: Any) -> None:
    """Those of the first token do not depend on the grammar, even if the model likes other tokens better."""

    def likeliest(request: ChatRequest) -> TokenLogprobs:
        updates = play(tiny_lane(model), [replace(request, n_logprobs=5)])
        return next(u.logprobs[0] for u in updates if isinstance(u, TextDelta) and u.logprobs)

    free, bound = likeliest(chat("a")), likeliest(constrained("a", Grammar("choice", '["~~"]')))

    assert bound.likeliest == free.likeliest
    assert bound.chosen.text == "~"
    assert bound.chosen.logprob < free.chosen.logprob


def test_several_replies_of_one_grammar_have_states_of_their_own(model: Any) -> None:
    grammar = Grammar("regex", "[a-z]{8}")
    requests = [constrained(f"c{i}", grammar, temperature=1.0, seed=i, text="same") for i in range(4)]

    texts = {reply.text for reply in replies(tiny_lane(model), requests).values()}

    assert len(texts) == 4
    assert all(re.fullmatch("[a-z]{8}", text) for text in texts)


@pytest.mark.slow
def test_a_reply_that_cannot_follow_its_grammar_fails_alone(model: Any) -> None:
    costly = Grammar("lark", 'start: a\na: | a a a | "x" | "y"', "guided_grammar")
    request = constrained("costly", costly, max_tokens=900, temperature=1.0)
    request = replace(request, logit_bias=((replies_token("x"), 50.0), (replies_token("y"), 50.0)))
    expected = replies(tiny_lane(model), neighbours())

    updates = play(tiny_lane(model), [request, *neighbours()])

    (failed,) = [update for update in updates if isinstance(update, Failed)]
    assert (failed.request_id, failed.code) == ("costly", "bad_request")
    assert failed.message.startswith("guided_grammar ")
    assert {u.request_id: u for u in updates if isinstance(u, Replied)} == expected
