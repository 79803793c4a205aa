"""Cancellations and failures in the chat lane: each ends its own chat once, and the lane stays usable."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch

from pipelines.chat.lane import ChatLane
from pipelines.chat_interface import ChatRequest, Prompt
from pipelines.interface import Canceled, Failed, Merging, Replied
from tests.support.lanes.chat_play import chat, ends, four_chats, free_pages, play, replies, reply, start_four
from tests.support.lanes.tiny_chat import tiny_lane, tiny_model, tiny_tokenizer
from tests.support.prompts import asked

pytestmark = pytest.mark.usefixtures("one_thread")


def test_too_long_request_fails_alone_and_its_message_has_the_numbers(lane: ChatLane) -> None:
    updates = play(lane, [chat("ok"), chat("long", "x" * 1_100, max_tokens=100), chat("fine")])
    assert sorted(ends(updates)) == [("fine", "Replied"), ("long", "Failed"), ("ok", "Replied")]
    failed = next(update for update in updates if isinstance(update, Failed))
    assert failed.code == "context_overflow"
    n_prompt = len(chat("c", "x" * 1_100).prompt.tokens)
    for figure in (n_prompt, 1024):
        assert f" {figure}" in failed.message


def test_a_message_that_spells_out_a_token_without_an_embedding_fails_alone() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["[UNTRAINED]"])
    lane = ChatLane(tiny_model(), tokenizer, cache_bytes=4 << 20)
    beyond = ChatRequest(id="beyond", prompt=asked(tokenizer, "say [UNTRAINED]"))
    updates = play(lane, [chat("ok"), beyond])
    assert sorted(ends(updates)) == [("beyond", "Failed"), ("ok", "Replied")]
    failed = next(update for update in updates if isinstance(update, Failed))
    assert failed.code == "bad_request"


def test_cancel_frees_the_pages_and_is_reported_exactly_once(lane: ChatLane) -> None:
    for name in ("a", "b"):
        lane.admit(chat(name, max_tokens=200))
    for _ in range(10):
        lane.step()
    assert free_pages(lane)[0] < free_pages(lane)[1]
    lane.cancel("a")
    lane.cancel("a")
    lane.cancel("nobody")
    lane.take_costs()
    updates = list(lane.step())
    assert ends(updates) == [("a", "Canceled")]
    assert lane.take_costs()[0].request_ids == ("b",)
    lane.cancel("b")
    assert ends(play(lane)) == [("b", "Canceled")]
    free, total = free_pages(lane)
    assert free == total
    lane.cancel("b")
    assert not lane.has_work()


def test_waiting_chat_can_be_canceled_and_the_one_behind_it_runs(model: Any) -> None:
    lane = tiny_lane(model, max_running=1)
    for name in ("a", "b", "c"):
        lane.admit(chat(name, max_tokens=5))
    lane.cancel("b")
    assert ends(play(lane)) == [("b", "Canceled"), ("a", "Replied"), ("c", "Replied")]


def test_cancel_before_the_first_step_lets_nothing_run(lane: ChatLane) -> None:
    lane.admit(chat("a"))
    lane.cancel("a")
    assert lane.step() == [Canceled("a")]
    assert lane.take_costs() == []
    assert not lane.has_work()


def test_forward_that_raises_fails_the_chats_in_it_and_the_next_chat_works() -> None:
    model = tiny_model()
    lane = tiny_lane(model, max_running=2)
    expected = reply(lane, chat("third", max_tokens=6)).text
    for name in ("first", "second", "third"):
        lane.admit(chat(name, max_tokens=6))
    lane.step()

    def fail(*_: Any) -> None:
        hook.remove()
        raise RuntimeError("kernel 7 exploded")

    hook = model.register_forward_pre_hook(fail)
    updates = list(lane.step())

    assert ends(updates) == [("first", "Failed"), ("second", "Failed")]
    for update in updates:
        assert isinstance(update, Failed)
        assert update.code == "model_error"
        assert "exploded" not in update.message
        assert "kernel 7 exploded" in update.detail
    rest = play(lane)
    assert ends(rest) == [("third", "Replied")]
    assert isinstance(rest[-1], Replied)
    assert rest[-1].text == expected
    free, total = free_pages(lane)
    assert free == total


def test_logits_that_are_not_numbers_fail_their_own_chat_only() -> None:
    model = tiny_model()
    lane = tiny_lane(model)
    expected = reply(lane, chat("good", max_tokens=6)).text
    for name in ("bad", "good"):
        lane.admit(chat(name, max_tokens=6, temperature=0.0))
    lane.step()

    def spoil(module: Any, arguments: Any, output: Any) -> None:
        hook.remove()
        output.logits[0, 0, 5] = torch.nan

    hook = model.register_forward_hook(spoil)
    updates = play(lane)
    assert ends(updates) == [("bad", "Failed"), ("good", "Replied")]
    assert next(u.code for u in updates if isinstance(u, Failed)) == "invalid_output"
    assert next(u.text for u in updates if isinstance(u, Replied)) == expected


@pytest.mark.parametrize("request_", [chat("a", max_tokens=-1), ChatRequest(id="a", prompt=Prompt(tokens=()))])
def test_a_request_for_less_than_no_token_and_an_empty_prompt_fail(model: Any, request_: ChatRequest) -> None:
    (update,) = play(tiny_lane(model), [request_])
    assert isinstance(update, Failed)
    assert update.code == "bad_request"


@pytest.mark.parametrize("merging", ["on", "off"])
def test_closed_lane_lets_go_of_the_model(merging: Merging) -> None:
    model = tiny_model()
    lane = tiny_lane(model, merging=merging)
    reply(lane, chat("a"))
    weights = weakref.ref(model.lm_head.weight)
    del model
    lane.close()

    assert weights() is None
    assert (lane.components, lane.parked, lane.weight_bytes, lane.cache_bytes) == ({}, {}, 0, 0)
    assert lane.next_step() is None


def test_a_cancel_in_which_the_library_raises_ends_the_chat_once_and_the_others_lose_no_token(
    monkeypatch: pytest.MonkeyPatch, model: Any
) -> None:
    expected = {name: end.text for name, end in replies(tiny_lane(model), four_chats()).items()}
    lane = tiny_lane(model)
    updates = start_four(lane)
    assert lane._kv_cache.batch is not None

    def fail(sequence_id: str) -> None:
        raise KeyError(sequence_id)

    monkeypatch.setattr(lane._kv_cache.batch, "remove", fail)
    lane.cancel("b")
    updates += play(lane)

    assert [end for end in ends(updates) if end[0] == "b"] == [("b", "Canceled")]
    del expected["b"]
    assert {u.request_id: u.text for u in updates if isinstance(u, Replied)} == expected


@pytest.mark.parametrize("error", [RuntimeError("already borrowed"), OverflowError("token 2**40")])
def test_a_tokenizer_that_fails_on_one_chat_fails_it_alone(model: Any, error: Exception) -> None:
    class Broken:
        """Fails on a token in the reply of the chat "bad"."""

        def __init__(self, own: Any) -> None:
            self._own = own

        def __getattr__(self, name: str) -> Any:
            return getattr(self._own, name)

        def decode(self, tokens: list[int], **options: Any) -> str:
            if bad and tokens[-1] == bad[0]:
                raise error
            return str(self._own.decode(tokens, **options))

    bad: list[int] = []
    tokenizer = Broken(tiny_tokenizer())
    good, other = chat("good", max_tokens=6), chat("bad", "quite another", max_tokens=6, temperature=2.0, seed=3)
    lane = ChatLane(model, tokenizer, cache_bytes=4 << 20)
    expected = reply(lane, good).text
    bad += [token for token in tokenizer.encode(reply(lane, other).text) if tokenizer.decode([token]) not in expected]
    lane = ChatLane(model, tokenizer, cache_bytes=4 << 20)  # one that has seen no token yet
    updates = play(lane, [good, other])

    assert sorted(ends(updates)) == [("bad", "Failed"), ("good", "Replied")]
    for update in updates:
        if isinstance(update, Failed):
            assert update.code == "model_error"
            assert str(error) in update.detail
            assert str(error) not in update.message
    assert next(u.text for u in updates if isinstance(u, Replied)) == expected
    free, total = free_pages(lane)
    assert free == total


def test_a_canceled_chat_is_no_part_of_the_next_step(lane: ChatLane) -> None:
    for name in "ab":
        lane.admit(chat(name, max_tokens=20))
    lane.step()
    lane.admit(chat("c"))
    for name in "ac":
        lane.cancel(name)
    next_step = lane.next_step()
    assert next_step is not None
    assert (next_step.stage, next_step.request_ids) == ("decode", ("b",))
    lane.cancel("b")
    assert lane.next_step() is None, "ending these needs no forward, and no weights on the device"
    assert sorted(ends(lane.step())) == [(name, "Canceled") for name in "abc"]
    assert not lane.has_work()
