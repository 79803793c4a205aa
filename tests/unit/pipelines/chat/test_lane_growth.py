"""Chats with ceilings far beyond the KV cache run together, make room for each other and lose no token."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma3TextConfig, GenerationConfig

from pipelines.chat import admission
from pipelines.chat.lane import ChatLane
from pipelines.chat.page_size import paged_cache_bytes
from pipelines.chat.paged_batch import PagedBatch
from pipelines.chat_interface import ChatRequest
from pipelines.interface import Canceled, Merging, OutOfMemory, Replied, StepCost, Update
from tests.support.lanes.chat_play import chat, ends, free_pages, play, replies, reply
from tests.support.lanes.faults import out_of_memory
from tests.support.lanes.tiny_chat import tiny_lane, tiny_model

pytestmark = pytest.mark.usefixtures("one_thread")
STOPS = ("?", "x")  # two of about a hundred tokens: a reply ends after about 50
RESERVE = 32  # less than in earnest, so that chats outgrow it after a few steps


@pytest.fixture(autouse=True)
def small_reserve(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "RESERVE_TOKENS", RESERVE)


@pytest.fixture
def n_reads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each chat was read in, in all paged batches."""
    counts: Counter[str] = Counter()
    add = PagedBatch.add

    def counted(batch: PagedBatch, sequence_id: str, *rest: Any) -> None:
        counts[sequence_id] += 1
        add(batch, sequence_id, *rest)

    monkeypatch.setattr(PagedBatch, "add", counted)
    return counts


def open_ended(name: str, n_prompt: int, *, seed: int, **settings: Any) -> ChatRequest:
    """A chat with a high ceiling that ends earlier, by a stop string that is drawn sooner or later."""
    usual = {"temperature": 1.0, "seed": seed, "stop": STOPS, "max_tokens": 200, "ignores_end": True}
    return chat(name, "x" * n_prompt, **{**usual, **settings})


def bytes_for(model: Any, *lengths: int) -> int:
    return paged_cache_bytes(model, lengths)


def small_lane(model: Any, merging: Merging = "on") -> ChatLane:
    """A lane whose cache holds one chat of 320 tokens, or three of 96."""
    return tiny_lane(model, cache_bytes=bytes_for(model, 320) if merging == "on" else 320 * 256, merging=merging)


@pytest.mark.slow
@pytest.mark.parametrize("merging", ["on", "off"])
def test_many_chats_in_a_small_cache_get_the_replies_that_they_get_alone(
    model: Any, merging: Merging, n_reads: Counter[str]
) -> None:
    requests = [open_ended(f"drawn {i}", 1 + 4 * i, seed=i) for i in range(10)]
    requests[3:3] = [chat("greedy", "on and on", max_tokens=150), open_ended("long", 40, seed=1, stop=())]
    alone = {request.id: reply(tiny_lane(model, merging=merging), request) for request in requests}
    n_reads.clear()

    together = replies(small_lane(model, merging), requests)

    assert together == alone
    assert len({end.finish_reason for end in alone.values()}) == 2
    if merging == "on":
        assert n_reads.total() > len(requests), "the cache was never full"
        assert all(n_reads[name] <= 1 + end.completion_tokens // RESERVE for name, end in together.items())


def test_32_chats_with_ceilings_of_8192_tokens_run_at_once_in_a_cache_of_16k_tokens(model: Any) -> None:
    lane = tiny_lane(model, cache_bytes=bytes_for(model, 16_384), context_tokens=8_192 + 100)
    for i in range(32):
        lane.admit(open_ended(f"c{i}", 60, seed=i, max_tokens=8_192, stop=()))
    for _ in range(40):
        lane.step()
    costs = [cost for cost in lane.take_costs() if isinstance(cost, StepCost)]
    assert costs[-1].rows == 32
    assert costs[-1].stage == "decode"
    for i in range(32):
        lane.cancel(f"c{i}")
    assert ends(play(lane)) == [(f"c{i}", "Canceled") for i in range(32)]
    free, total = free_pages(lane)
    assert free == total


def start_until_one_is_put_back(lane: ChatLane) -> tuple[dict[str, ChatRequest], list[Update]]:
    requests = [open_ended(name, 10, seed=i, stop=(), max_tokens=120) for i, name in enumerate("abc")]
    for request in requests:
        lane.admit(request)
    updates: list[Update] = []
    while len(lane._queue.running) < 3:
        updates += lane.step()
    while len(lane._queue.running) == 3:
        updates += lane.step()
    assert [one.id for one in lane._queue.waiting] == ["c"]
    assert lane._queue.waiting[0].n_tokens > RESERVE
    return {request.id: request for request in requests}, updates


def test_a_chat_that_was_put_back_can_be_canceled_and_the_others_go_on(model: Any) -> None:
    lane = small_lane(model)
    requests, updates = start_until_one_is_put_back(lane)
    lane.cancel("c")
    updates += play(lane)
    assert [update.request_id for update in updates if isinstance(update, Canceled)] == ["c"]
    texts = {update.request_id: update.text for update in updates if isinstance(update, Replied)}
    assert texts == {name: reply(tiny_lane(model), requests[name]).text for name in "ab"}
    free, total = free_pages(lane)
    assert free == total


@pytest.mark.slow
def test_running_out_of_memory_after_a_chat_was_put_back_loses_no_token() -> None:
    model = tiny_model()
    lane = small_lane(model)
    requests, updates = start_until_one_is_put_back(lane)
    lane.take_costs()
    with out_of_memory(model, times=2):
        updates += play(lane)
    assert [note.rows for note in lane.take_costs() if isinstance(note, OutOfMemory)] == [2, 1]
    texts = {update.request_id: update.text for update in updates if isinstance(update, Replied)}
    assert texts == {name: reply(tiny_lane(model), request).text for name, request in requests.items()}


def test_a_chat_that_is_read_in_again_is_no_decode_step_and_its_tokens_are_counted(model: Any) -> None:
    lane = small_lane(model)
    start_until_one_is_put_back(lane)
    for _ in range(40):  # until the others need the blocks that are kept of it
        lane.step()
    lane.cancel("a")
    lane.cancel("b")
    lane.take_costs()
    next_step = lane.next_step()
    lane.step()
    (cost,) = lane.take_costs()
    assert next_step is not None
    assert isinstance(cost, StepCost)
    assert next_step.request_ids == cost.request_ids == ("c",)
    assert next_step.stage == cost.stage == "prefill"
    assert next_step.units >= cost.units > RESERVE
    lane.cancel("c")
    play(lane)


def test_blocks_kept_of_ended_chats_make_room_for_a_new_one_at_once(model: Any) -> None:
    lane = small_lane(model)
    play(lane, [chat(name, name * 100, max_tokens=2) for name in "ab"])
    lane.admit(chat("runs", max_tokens=60))
    lane.step()
    lane.admit(chat("new", "n" * 120, max_tokens=2))
    updates = [update for _ in range(4) for update in lane.step()]
    assert ends(updates) == [("new", "Replied")]
    play(lane)


def hybrid_model(window: int) -> Any:
    """One layer attends to everything and four to a window: memory is given out in sectors, of several blocks each."""
    config = Gemma3TextConfig(
        vocab_size=99,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=5,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=1024,
        initializer_range=0.3,
        sliding_window=window,
        layer_types=["full_attention"] + ["sliding_attention"] * 4,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config).eval()
    model.generation_config = GenerationConfig(eos_token_id=2, pad_token_id=0, bos_token_id=1)
    return model


@pytest.mark.slow
def test_chats_of_a_model_with_two_kinds_of_layers_make_room_for_each_other(n_reads: Counter[str]) -> None:
    model = hybrid_model(window=512)
    requests = [open_ended(f"c{i}", 1 + 4 * i, seed=i) for i in range(8)]
    alone = {request.id: reply(tiny_lane(model, cache_bytes=16 << 20), request) for request in requests}
    n_reads.clear()
    assert replies(tiny_lane(model, cache_bytes=bytes_for(model, 320)), requests) == alone
    assert n_reads.total() > len(requests), "the cache was never full"


def fill_with_sectors_that_are_partly_used(batch: PagedBatch) -> None:
    """Let "e" hold one block in each of 17 sectors: five chats take a block in turn, and the other four end."""
    for name in "abcde":
        batch.add(name, [5] * 30)
    for _ in range(17 * 32 - 30):
        batch.step()
    for name in "abcd":
        batch.remove(name)


@pytest.mark.slow
def test_sectors_that_are_partly_used_by_one_kind_of_layers_are_no_room_for_the_other() -> None:
    model = hybrid_model(window=64)
    batch = PagedBatch(
        model, cache_bytes=bytes_for(model, 720), max_rows=16, sampler=lambda ids, logits: logits.argmax(-1)
    )
    assert batch.n_pages == 32
    fill_with_sectors_that_are_partly_used(batch)
    assert batch.has_room()
    n_new = (batch.n_pages - batch.pages_for(17 * 32)) // batch.pages_for(64)
    for i in range(n_new):
        batch.add(str(i), [5] * 64)
    assert not batch.has_room()
    batch.remove("e")
    assert batch.has_room()
