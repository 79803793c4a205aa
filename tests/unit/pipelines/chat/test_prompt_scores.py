"""Log probabilities of prompts: those of one forward of the model, whatever shares the batch and however it is read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma3TextConfig

from pipelines.chat.lane import ChatLane
from pipelines.chat.page_size import paged_cache_bytes
from pipelines.chat.prompt_scores import SLICE_ROWS
from pipelines.chat_interface import ChatRequest, Prompt, TokenLogprobs
from pipelines.interface import Canceled, Failed, Merging, OutOfMemory, Replied, StepCost, TextDelta, Update
from tests.support.lanes.chat_play import chat, ends, free_pages, play, reply
from tests.support.lanes.faults import out_of_memory
from tests.support.lanes.tiny_chat import tiny_lane, tiny_model

pytestmark = pytest.mark.usefixtures("one_thread")
TOLERANCE = 1e-4  # float32; the batch adds up in another order
LENGTHS = (2, 33, 5, 300, 64, 700)  # of prompts; a step on a CPU reads 256 tokens, a page holds 32
Scores = dict[str, tuple[TokenLogprobs, ...]]


def tokens(n: int, salt: int = 0) -> tuple[int, ...]:
    return tuple(3 + (i * i + 7 * i + salt) % 90 for i in range(n))


def scored(name: str, prompt: Sequence[int], n: int = 2, **settings: Any) -> ChatRequest:
    raw = Prompt(tokens=tuple(prompt), continues=True, raw=True)
    return ChatRequest(id=name, prompt=raw, n_prompt_logprobs=n, **{"max_tokens": 0, **settings})


def scores_in(updates: Sequence[Update]) -> Scores:
    """The log probabilities of each prompt, which come once and before any text."""
    found: Scores = {}
    began: set[str] = set()
    for update in updates:
        if isinstance(update, TextDelta):
            if update.section == "prompt":
                assert update.request_id not in began, "once, before the text"
                first, *others = update.logprobs
                assert math.isnan(first.chosen.logprob), "it follows nothing"
                found[update.request_id] = tuple(others)
            began.add(update.request_id)
    return found


@torch.inference_mode()
def expected(model: Any, prompt: Sequence[int]) -> torch.Tensor:
    """(N - 1, vocabulary): log probabilities behind each token but the last, from one forward."""
    implementation = model.config._attn_implementation
    model.set_attn_implementation("eager")
    logits = model(torch.tensor([prompt])).logits[0, :-1]
    model.set_attn_implementation(implementation)
    return logits.float().log_softmax(-1)


def check(model: Any, prompt: Sequence[int], found: Sequence[TokenLogprobs], n: int = 2) -> None:
    logprobs = expected(model, prompt)
    assert [each.chosen.token for each in found] == list(prompt[1:])
    chosen = logprobs.gather(-1, torch.tensor(prompt[1:])[:, None])[:, 0]
    assert torch.tensor([each.chosen.logprob for each in found]) == pytest.approx(chosen, abs=TOLERANCE)
    best = logprobs.topk(max(n, 1)).values[:, :n]
    reported = torch.tensor([[other.logprob for other in each.likeliest] for each in found]).reshape(best.shape)
    assert torch.allclose(reported, best, atol=TOLERANCE)
    for row, each in zip(logprobs, found, strict=True):
        for other in each.likeliest:
            assert float(row[other.token]) == pytest.approx(other.logprob, abs=TOLERANCE)


@pytest.mark.parametrize("merging", ["on", "off"])
def test_prompts_of_all_lengths_have_the_scores_of_one_forward_alone_and_together(merging: Merging) -> None:
    model = tiny_model()
    requests = [scored(f"p{n}", tokens(n), n=i % 4) for i, n in enumerate(LENGTHS)]
    alone: Scores = {}
    for request in requests:
        alone |= scores_in(play(tiny_lane(model, merging=merging), [request]))
    lane = tiny_lane(model, merging=merging)
    updates = play(lane, requests)

    together = scores_in(updates)
    for i, request in enumerate(requests):
        check(model, request.prompt.tokens, alone[request.id], i % 4)
        check(model, request.prompt.tokens, together[request.id], i % 4)
    assert max(LENGTHS) > 256 + SLICE_ROWS
    assert [
        (end.completion_tokens, end.finish_reason, end.text, end.prompt_tokens)
        for end in sorted((u for u in updates if isinstance(u, Replied)), key=lambda end: end.prompt_tokens)
    ] == [(0, "length", "", n) for n in sorted(LENGTHS)]
    if merging == "on":
        assert free_pages(lane) == (free_pages(lane)[1],) * 2


@pytest.mark.parametrize("merging", ["on", "off"])
def test_chats_beside_scored_prompts_keep_their_replies_and_the_prompts_their_scores(merging: Merging) -> None:
    model = tiny_model()
    chats = [chat(f"c{i}", "tell me " * i, max_tokens=30, temperature=0.9 * (i % 2), seed=i) for i in range(3)]
    alone = {each.id: reply(tiny_lane(model, merging=merging), each).text for each in chats}
    lane = tiny_lane(model, merging=merging)
    updates: list[Update] = []
    for each in chats:
        lane.admit(each)
    for _ in range(7):
        updates += lane.step()
    updates += play(lane, [scored(f"p{n}", tokens(n)) for n in LENGTHS])

    texts = {end.request_id: end.text for end in updates if isinstance(end, Replied)}
    assert {name: texts[name] for name in alone} == alone
    found = scores_in(updates)
    assert found.keys() == {f"p{n}" for n in LENGTHS}
    for n in LENGTHS:
        check(model, tokens(n), found[f"p{n}"])


@pytest.mark.parametrize("merging", ["on", "off"])
def test_a_scored_prompt_that_goes_on_has_the_reply_of_one_that_is_not_scored(model: Any, merging: Merging) -> None:
    prompt = tokens(290)
    plain = ChatRequest(id="plain", prompt=Prompt(tokens=prompt, raw=True, continues=True), max_tokens=20)
    lane = tiny_lane(model, merging=merging)
    expected_text = reply(lane, plain).text
    updates = play(lane, [scored("both", prompt, max_tokens=20, n_logprobs=1)])

    check(model, prompt, scores_in(updates)["both"])
    end = updates[-1]
    assert isinstance(end, Replied)
    assert (end.text, end.completion_tokens) == (expected_text, 20)
    of_reply = [each for u in updates if isinstance(u, TextDelta) and u.section == "content" for each in u.logprobs]
    assert len(of_reply) == 20


def test_equal_prompts_of_one_owner_are_scored_each_though_their_blocks_are_cached(model: Any) -> None:
    prompt = tokens(200)
    lane = tiny_lane(model)
    play(lane, [ChatRequest(id="first", prompt=Prompt(tokens=prompt), max_tokens=2, owner="me")])
    updates = play(lane, [scored(name, prompt, owner="me") for name in "ab"])
    for name in "ab":
        check(model, prompt, scores_in(updates)[name])


def test_a_prompt_that_was_put_back_half_read_is_scored_whole_though_its_blocks_are_cached(model: Any) -> None:
    lane = tiny_lane(model)
    lane.admit(scored("p", tokens(700)))
    updates = [*lane.step(), *lane.step()]
    lane._admission._remove([lane._queue.put_back_newest().id])  # as another chat that needs the room makes it do
    updates += play(lane)
    check(model, tokens(700), scores_in(updates)["p"])
    check(model, tokens(700), scores_in(play(lane, [scored("p", tokens(700))]))["p"])


def test_the_only_token_of_a_prompt_has_no_score_and_its_reply_goes_on(model: Any) -> None:
    updates = play(tiny_lane(model), [scored("one", tokens(1), max_tokens=3), scored("none", tokens(1))])
    assert scores_in(updates) == {"one": (), "none": ()}
    assert {end.request_id: end.completion_tokens for end in updates if isinstance(end, Replied)} == {
        "one": 3,
        "none": 0,
    }


def test_a_prompt_as_long_as_the_context_is_scored_and_one_token_more_fails(model: Any) -> None:
    updates = play(tiny_lane(model), [scored("full", tokens(1024)), scored("over", tokens(1025))])
    check(model, tokens(1024), scores_in(updates)["full"])
    (failed,) = (update for update in updates if isinstance(update, Failed))
    assert (failed.request_id, failed.code) == ("over", "context_overflow")


def test_a_canceled_prompt_leaves_its_pages_and_the_others_their_scores(model: Any) -> None:
    lane = tiny_lane(model)
    for n in (700, 600, 40):
        lane.admit(scored(f"p{n}", tokens(n)))
    lane.step()
    lane.cancel("p700")
    updates = play(lane)
    assert ends(updates)[0] == ("p700", "Canceled")
    assert isinstance(updates[0], Canceled)
    assert scores_in(updates).keys() == {"p600", "p40"}
    check(model, tokens(600), scores_in(updates)["p600"])
    assert free_pages(lane) == (free_pages(lane)[1],) * 2


@pytest.mark.parametrize("times", [1, 2])
def test_a_prompt_that_ran_out_of_memory_half_read_is_scored_from_its_beginning_once_more(times: int) -> None:
    model = tiny_model()
    lane = tiny_lane(model)
    for n in (700, 60):
        lane.admit(scored(f"p{n}", tokens(n)))
    updates = [*lane.step(), *lane.step()]
    lane.take_costs()
    with out_of_memory(model, times=times):
        updates += play(lane)
    found = scores_in(updates)
    for n in (700, 60):
        check(model, tokens(n), found[f"p{n}"])
    (note, *_) = (note for note in lane.take_costs() if isinstance(note, OutOfMemory))
    assert note.shape == "score"


def test_a_resized_cache_in_the_middle_of_a_prompt_loses_no_score(model: Any) -> None:
    lane = tiny_lane(model)
    lane.admit(scored("p", tokens(700)))
    updates = [*lane.step(), *lane.step()]
    lane.resize_cache(2 * lane.cache_bytes)
    updates += play(lane)
    check(model, tokens(700), scores_in(updates)["p"])


@pytest.mark.parametrize("merging", ["on", "off"])
def test_logits_of_a_prompt_that_are_not_numbers_fail_it_alone(merging: Merging) -> None:
    model = tiny_model()
    lane = tiny_lane(model, merging=merging)

    def spoil(module: Any, arguments: Any, output: Any) -> None:
        hook.remove()
        output.logits[0, -2, 5] = torch.nan  # behind the prompt's last token but one

    hook = model.register_forward_hook(spoil)
    updates = play(lane, [scored("bad", tokens(30)), scored("good", tokens(30, salt=1))] if merging == "off" else [])
    if merging == "on":
        lane.admit(scored("bad", tokens(30)))
        updates = list(lane.step())
        updates += play(lane, [scored("good", tokens(30, salt=1))])
    failed = next(update for update in updates if isinstance(update, Failed))
    assert (failed.request_id, failed.code) == ("bad", "invalid_output")
    check(model, tokens(30, salt=1), scores_in(updates)["good"])


def test_steps_that_score_are_measured_apart_from_those_that_only_read(model: Any) -> None:
    lane = tiny_lane(model)
    lane.admit(scored("p", tokens(40), max_tokens=3))
    next_step = lane.next_step()
    assert next_step is not None
    assert (next_step.stage, next_step.shape, next_step.units) == ("prefill", "score", 40)
    play(lane)
    costs = [note for note in lane.take_costs() if isinstance(note, StepCost)]
    assert [(cost.stage, cost.shape) for cost in costs] == [("prefill", "score"), *[("decode", "decode")] * 2]


@pytest.mark.parametrize("computes_all", [False, True], ids=["only the logits asked for", "all logits"])
def test_a_model_with_sliding_windows_is_scored_whether_it_computes_all_logits_or_not(computes_all: bool) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        config = Gemma3TextConfig(
            vocab_size=97, hidden_size=32, intermediate_size=64, num_hidden_layers=6, num_attention_heads=4,
            num_key_value_heads=2, head_dim=8, sliding_window=16, max_position_embeddings=512, eos_token_id=2,
        )  # fmt: skip
        model = AutoModelForCausalLM.from_config(config).eval()
    if computes_all:
        model._supports_logits_to_keep = lambda: False
    lane = tiny_lane(model, cache_bytes=paged_cache_bytes(model, (512, 512, 512)))
    found = scores_in(play(lane, [scored(f"p{n}", tokens(n)) for n in (70, 300)]))
    for n in (70, 300):
        check(model, tokens(n), found[f"p{n}"])


def test_the_scored_prompts_of_a_lane_leave_a_waiting_chat_its_turn(model: Any) -> None:
    """A chat that runs gets a token in each step, also while a long prompt is scored."""
    lane: ChatLane = tiny_lane(model)
    lane.admit(chat("talk", max_tokens=50))
    lane.step()
    lane.admit(scored("long", tokens(1000)))
    n_steps = 0
    while lane.has_work() and "long" not in scores_in(updates := list(lane.step())):
        n_steps += 1
        assert any(isinstance(update, TextDelta) and update.request_id == "talk" for update in updates)
    assert n_steps >= 3
    play(lane)
