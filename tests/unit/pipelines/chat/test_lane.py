"""The chat lane: replies equal those of `generate`, and each chat is sampled and stopped by its own settings."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pipelines.chat.lane import ChatLane
from pipelines.interface import (
    Replied,
    StepCost,
    TextDelta,
)
from tests.support.lanes.chat_play import chat, ends, free_pages, play, replies, reply
from tests.support.lanes.tiny_chat import tiny_lane, tiny_model, tiny_tokenizer

pytestmark = pytest.mark.usefixtures("one_thread")


def test_greedy_reply_equals_that_of_generate_alone_and_in_a_batch_of_eight(model: Any, lane: ChatLane) -> None:
    requests = [chat(f"c{i}", "tell me of " + "the sea " * i, max_tokens=10 + 3 * i) for i in range(8)]
    tokenizer = tiny_tokenizer()
    expected = {}
    for request in requests:
        prompt = torch.tensor([request.prompt.tokens])
        output = model.generate(
            prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=request.max_tokens, do_sample=False
        )
        expected[request.id] = tokenizer.decode(output[0, prompt.shape[1] :], skip_special_tokens=True)

    alone = {request.id: reply(lane, request).text for request in requests}
    together = {name: end.text for name, end in replies(tiny_lane(model), requests).items()}

    assert len(set(expected.values())) == 8
    assert alone == expected
    assert together == expected


def test_chat_that_arrives_while_others_run_joins_their_next_forward(lane: ChatLane) -> None:
    lane.admit(chat("first", max_tokens=20))
    for _ in range(5):
        lane.step()
    lane.take_costs()
    lane.admit(chat("second", max_tokens=20))
    lane.step()
    lane.step()
    prefill, decode = lane.take_costs()
    assert (prefill.shape, prefill.rows, prefill.request_ids) == ("prefill", 2, ("first", "second"))
    assert (decode.shape, decode.rows) == ("decode", 2)
    assert decode.seconds > 0
    assert ends(play(lane)) == [("first", "Replied"), ("second", "Replied")]


def test_seeded_sampling_gives_the_same_text_whatever_shares_the_batch(model: Any, lane: ChatLane) -> None:
    request = chat("mine", temperature=1.0, seed=11, max_tokens=40)
    neighbours = [chat(f"n{i}", temperature=1.3, seed=11 + i, max_tokens=10 + 7 * i) for i in range(7)]
    alone = reply(lane, request).text
    assert replies(lane, [*neighbours[:3], request, *neighbours[3:]])["mine"].text == alone
    assert reply(lane, chat("other", "hello mine", temperature=1.0, seed=12, max_tokens=40)).text != alone


def test_each_chat_is_sampled_by_its_own_settings(model: Any, lane: ChatLane) -> None:
    text = "what is it like"
    settings: list[dict[str, Any]] = [
        {},
        {"temperature": 0.7, "seed": 0},
        {"temperature": 1.5, "seed": 0},
        {"temperature": 1.5, "seed": 0, "top_p": 0.5},
        {"temperature": 1.5, "seed": 0, "top_k": 3},
        {"repetition_penalty": 1.8},
        {"frequency_penalty": 1.5},
        {"presence_penalty": 2.0, "temperature": 1.5, "seed": 0},
    ]
    requests = [chat(f"s{i}", text, max_tokens=30, **kind) for i, kind in enumerate(settings)]
    alone = {request.id: reply(lane, request).text for request in requests}
    assert len(set(alone.values())) == len(settings)
    assert {name: end.text for name, end in replies(lane, requests).items()} == alone


def test_top_k_of_one_is_greedy(lane: ChatLane) -> None:
    greedy = reply(lane, chat("a", "hi", max_tokens=20)).text
    assert reply(lane, chat("b", "hi", max_tokens=20, temperature=2.0, top_k=1, seed=9)).text == greedy


def test_deltas_join_to_the_reply_and_come_before_its_end(lane: ChatLane) -> None:
    updates = play(lane, [chat("c", max_tokens=25, temperature=1.0, seed=2)])
    end = updates[-1]
    assert isinstance(end, Replied)
    assert "".join(update.text for update in updates if isinstance(update, TextDelta)) == end.text
    assert (end.completion_tokens, end.finish_reason) == (25, "length")
    assert end.prompt_tokens == len(chat("c", "hello c").prompt.tokens)


def test_stop_string_over_several_tokens_ends_the_reply_and_frees_its_pages(lane: ChatLane) -> None:
    whole = reply(lane, chat("whole", "go", max_tokens=60, temperature=1.0, seed=4)).text
    stop = whole[20:24]  # four tokens: each is one character
    updates = play(lane, [chat("cut", "go", max_tokens=60, temperature=1.0, seed=4, stop=(stop, "never this"))])
    end = updates[-1]
    assert isinstance(end, Replied)
    assert end.text == whole[: whole.index(stop)]
    assert "".join(update.text for update in updates if isinstance(update, TextDelta)) == end.text
    assert end.finish_reason == "stop"
    assert end.completion_tokens == whole.index(stop) + len(stop)
    free, total = free_pages(lane)
    assert free == total


def test_end_token_ends_the_reply_and_is_not_shown() -> None:
    model = tiny_model()
    whole = reply(tiny_lane(model), chat("whole", "go", max_tokens=30, temperature=1.0, seed=5)).text
    tokenizer = tiny_tokenizer()
    model.generation_config.eos_token_id = [2, tokenizer.encode(whole[12])[0]]
    end = reply(tiny_lane(model), chat("cut", "go", max_tokens=30, temperature=1.0, seed=5))
    assert end.text == whole[: whole.index(whole[12])]
    assert (end.finish_reason, end.completion_tokens) == ("stop", len(end.text) + 1)


def test_context_limit_counts_the_reply_to_its_last_token(model: Any) -> None:
    request = chat("c", max_tokens=30)
    n_prompt = len(request.prompt.tokens)
    whole = reply(tiny_lane(model, context_tokens=n_prompt + 30), request)
    shorter = reply(tiny_lane(model, context_tokens=n_prompt + 29), request)
    assert (whole.completion_tokens, whole.warnings) == (30, ())
    assert (shorter.completion_tokens, shorter.finish_reason) == (29, "length")
    assert "max_tokens was 30" in shorter.warnings[0]
    assert " 29 " in shorter.warnings[0]
    assert ends(play(tiny_lane(model, context_tokens=n_prompt), [request])) == [("c", "Failed")]


def test_a_reply_without_a_ceiling_ends_where_the_context_does(model: Any) -> None:
    request = chat("c", max_tokens=None)
    end = reply(tiny_lane(model, context_tokens=len(request.prompt.tokens) + 17), request)
    assert (end.completion_tokens, end.finish_reason, end.warnings) == (17, "length", ())


def test_prompt_longer_than_one_step_takes_is_read_in_parts_while_others_go_on(model: Any, lane: ChatLane) -> None:
    long = chat("long", "abcdefgh " * 80, max_tokens=8)
    alone = reply(tiny_lane(model), long).text
    lane.admit(chat("short", max_tokens=8))
    lane.step()
    lane.take_costs()
    updates = play(lane, [long])
    assert [cost.shape for cost in lane.take_costs()][:3] == ["prefill"] * 3
    assert ends(updates) == [("short", "Replied"), ("long", "Replied")]
    assert next(u for u in updates if isinstance(u, Replied) and u.request_id == "long").text == alone


def test_long_prompt_is_read_in_parts_that_hold_up_others_for_a_limited_time(lane: ChatLane) -> None:
    lane._token_s = 0.2 / 40  # as if 40 tokens took as long as other chats may be held up
    lane.admit(chat("short", max_tokens=30))
    while not lane._queue.running or not lane._queue.running["short"].n_tokens:
        lane.step()
    lane._token_s = 0.2 / 40
    lane.take_costs()
    lane.admit(chat("long", "abcdefgh " * 40, max_tokens=2))
    lane.step()
    (cost,) = lane.take_costs()
    assert isinstance(cost, StepCost)
    assert cost.rows * cost.units <= 41
    play(lane)


def test_a_step_admits_no_more_chats_than_it_may_run_and_running_chats_go_on(lane: ChatLane) -> None:
    for name in "abc":
        lane.admit(chat(name, max_tokens=40))
    lane.step(max_rows=2)
    lane.take_costs()
    lane.step(max_rows=1)
    lane.step()
    notes = [(note.rows, note.request_ids) for note in lane.take_costs() if isinstance(note, StepCost)]
    assert notes == [(2, ("a", "b")), (3, ("a", "b", "c"))]
    play(lane)
