"""The KV cache of the chat lane: chats wait for room in it, it changes its size, and out of memory loses no chat."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from pipelines.chat.lane import ChatLane
from pipelines.interface import (
    Failed,
    OutOfMemory,
    Replied,
    StepCost,
    Update,
)
from tests.support.lanes.chat_play import chat, ends, four_chats, free_pages, play, replies, reply, start_four
from tests.support.lanes.faults import out_of_memory
from tests.support.lanes.tiny_chat import tiny_lane, tiny_model

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]
SMALL_CACHE = 800_000  # a dozen pages of 32 tokens
OUT_OF_MEMORY = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


@pytest.mark.slow
def test_chats_beyond_the_cache_wait_in_order_and_all_get_their_whole_reply(model: Any) -> None:
    lane = tiny_lane(model, cache_bytes=SMALL_CACHE)
    requests = [chat(f"c{i}", "count " * (1 + i % 4), max_tokens=40 + 25 * (i % 3)) for i in range(12)]
    alone = {request.id: reply(tiny_lane(model), request).text for request in requests}
    _, total = free_pages(lane)
    assert lane._kv_cache.batch is not None
    assert sum(lane._kv_cache.batch.pages_for(len("count ") + request.max_tokens) for request in requests) > 2 * total

    for request in requests:
        lane.admit(request)
    arrived: list[str] = []
    updates: list[Update] = []
    while lane.has_work():
        updates += lane.step()
        for cost in lane.take_costs():
            arrived += [name for name in cost.request_ids if name not in arrived]

    assert arrived == [request.id for request in requests]
    assert {update.request_id: update.text for update in updates if isinstance(update, Replied)} == alone
    assert free_pages(lane) == (total, total)


def test_request_that_fills_the_whole_cache_runs_and_one_token_more_fails(model: Any) -> None:
    lane = tiny_lane(model, cache_bytes=SMALL_CACHE)
    longest = lane._max_lengths[False]
    assert longest < 1024, "the cache must be the limit here, not the model"
    room = longest - len(chat("full", "hello").prompt.tokens)
    assert reply(lane, chat("full", "hello", max_tokens=room)).completion_tokens == room
    over = reply(lane, chat("over", "hello", max_tokens=room + 1))
    assert (over.completion_tokens, len(over.warnings)) == (room, 1)


@pytest.mark.slow
@pytest.mark.parametrize("times", [1, 2, 3])
def test_out_of_memory_with_four_chats_loses_none_that_fits_with_fewer(times: int) -> None:
    model = tiny_model()
    lane = tiny_lane(model)
    expected = {name: end.text for name, end in replies(lane, four_chats()).items()}
    for request in four_chats():
        lane.admit(request)
    for _ in range(5):
        lane.step()
    lane.take_costs()
    updates: list[Update] = []
    with out_of_memory(model, times=times):
        updates += play(lane)
    assert {u.request_id: u.text for u in updates if isinstance(u, Replied)} == expected
    boundaries = [note.rows for note in lane.take_costs() if isinstance(note, OutOfMemory)]
    assert boundaries == [4, 2, 1][:times]
    free, total = free_pages(lane)
    assert free == total


@pytest.mark.slow
def test_constant_out_of_memory_fails_one_chat_after_the_other_and_a_later_chat_works() -> None:
    model = tiny_model()
    lane = tiny_lane(model)
    with out_of_memory(model):
        updates = play(lane, four_chats())
    failed = [update for update in updates if isinstance(update, Failed)]
    assert [(end.request_id, end.code) for end in failed] == [(name, "out_of_memory") for name in "abcd"]
    assert reply(lane, chat("next")).completion_tokens > 0


@pytest.mark.slow
def test_cache_that_does_not_fit_is_made_smaller_and_the_waiting_chat_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    lane = tiny_lane(tiny_model(), cache_bytes=4 << 20)
    expected = reply(lane, chat("a", max_tokens=8)).text
    assert lane.resize_cache(0) == 0
    make, asked = lane._kv_cache._make_batch, []

    def fitting(n_bytes: int) -> Any:
        asked.append(n_bytes)
        if n_bytes > 3 << 20:
            raise torch.OutOfMemoryError("tried to allocate 4 MiB")
        return make(n_bytes)

    monkeypatch.setattr(lane._kv_cache, "_make_batch", fitting)
    lane._kv_cache.free(8 << 20)
    assert reply(lane, chat("b", "hello a", max_tokens=8)).text == expected
    assert asked == [8 << 20, 4 << 20, 2 << 20]
    assert 0 < lane.cache_bytes <= 2 << 20


@pytest.mark.slow
def test_resizing_the_cache_loses_no_token_of_running_chats() -> None:
    lane = tiny_lane(tiny_model(), cache_bytes=4 << 20)
    expected = {name: end.text for name, end in replies(lane, four_chats()).items()}
    for request in four_chats():
        lane.admit(request)
    updates: list[Update] = []
    for _ in range(4):
        updates += lane.step()
    small = lane.resize_cache(0)
    assert 0 < small < 2 << 20, "running chats keep the memory to end"
    for _ in range(3):
        updates += lane.step()
    assert lane.resize_cache(4 << 20) > small
    updates += play(lane)
    assert {u.request_id: u.text for u in updates if isinstance(u, Replied)} == expected
    assert lane.resize_cache(0) == 0


def test_cached_prompts_are_shared_between_requests_of_the_same_owner_only(lane: ChatLane) -> None:
    prompt = "the same long introduction " * 6

    def tokens_read(name: str, owner: str) -> int:
        lane.take_costs()
        play(lane, [replace(chat(name, prompt, max_tokens=2), owner=owner)])
        return sum(cost.units for cost in lane.take_costs() if isinstance(cost, StepCost) and cost.stage == "prefill")

    whole = tokens_read("a", "ann")
    assert tokens_read("b", "ann") < whole / 2
    assert tokens_read("c", "bob") == whole
    assert tokens_read("d", "bob") < whole / 2


def test_prompts_with_the_same_beginning_share_pages(lane: ChatLane) -> None:
    beginning = "the same long introduction " * 6
    first = reply(lane, chat("a", beginning + "one")).text
    lane.take_costs()
    again = reply(lane, chat("b", beginning + "one")).text
    assert again == first
    assert lane._kv_cache.batch is not None
    lane.admit(chat("c", beginning + "two", max_tokens=50))
    lane.admit(chat("d", beginning + "six", max_tokens=50))
    for _ in range(3):
        lane.step()
    free, total = free_pages(lane)
    assert total - free < 2 * lane._kv_cache.batch.pages_for(len(beginning) + 20)
    play(lane)


def test_cache_keeps_to_its_bytes_and_leaves_the_global_generator_alone(model: Any) -> None:
    before = torch.random.get_rng_state()
    for cache_bytes in (SMALL_CACHE, 4 << 20):
        lane = tiny_lane(model, cache_bytes=cache_bytes)
        assert 0.8 * cache_bytes < lane.cache_bytes <= cache_bytes
    assert torch.equal(torch.random.get_rng_state(), before)
    assert lane.weight_bytes == sum(p.numel() * 4 for p in model.parameters()) + sum(b.nbytes for b in model.buffers())
    with pytest.raises(ValueError, match="holds no page"):
        tiny_lane(model, cache_bytes=1_000)


def fail_making_the_cache(
    lane: ChatLane, monkeypatch: pytest.MonkeyPatch, error: Exception, *, times: int | None = None, above: int = 0
) -> list[int]:
    """Make the first `times` (None: all) caches larger than `above` bytes fail. Returns the list of their sizes."""
    make, failed = lane._kv_cache._make_batch, []

    def limited(n_bytes: int) -> Any:
        if n_bytes > above and (times is None or len(failed) < times):
            failed.append(n_bytes)
            raise error
        return make(n_bytes)

    monkeypatch.setattr(lane._kv_cache, "_make_batch", limited)
    return failed


@pytest.mark.parametrize("wanted", [8 << 20, 0])
def test_resizing_the_cache_out_of_memory_holds_nothing_and_the_chats_go_on(
    monkeypatch: pytest.MonkeyPatch, model: Any, wanted: int
) -> None:
    expected = {name: end.text for name, end in replies(tiny_lane(model), four_chats()).items()}
    lane = tiny_lane(model)
    updates = start_four(lane)
    with monkeypatch.context() as patched:
        assert fail_making_the_cache(lane, patched, OUT_OF_MEMORY) == []
        assert lane.resize_cache(wanted) == lane.cache_bytes == 0
    updates += play(lane)

    assert {u.request_id: u.text for u in updates if isinstance(u, Replied)} == expected


def test_growing_the_cache_with_memory_for_half_of_it_holds_half(monkeypatch: pytest.MonkeyPatch, model: Any) -> None:
    expected = {name: end.text for name, end in replies(tiny_lane(model), four_chats()).items()}
    lane = tiny_lane(model)
    updates = start_four(lane)
    assert lane.cache_bytes < 4 << 20
    failed = fail_making_the_cache(lane, monkeypatch, OUT_OF_MEMORY, above=5 << 20)
    assert 0 < lane.resize_cache(8 << 20) <= 4 << 20
    assert failed == [8 << 20]
    updates += play(lane)

    assert {u.request_id: u.text for u in updates if isinstance(u, Replied)} == expected


def test_resizing_the_cache_of_an_idle_lane_out_of_memory_holds_nothing_and_the_next_chat_works(
    monkeypatch: pytest.MonkeyPatch, lane: ChatLane
) -> None:
    with monkeypatch.context() as patched:
        fail_making_the_cache(lane, patched, OUT_OF_MEMORY)
        assert lane.resize_cache(8 << 20) == lane.cache_bytes == 0
    assert reply(lane, chat("next")).completion_tokens > 0


def test_a_cache_that_cannot_be_resized_for_another_reason_fails_the_chats_with_it(
    monkeypatch: pytest.MonkeyPatch, lane: ChatLane
) -> None:
    updates = start_four(lane)
    with monkeypatch.context() as patched:
        fail_making_the_cache(lane, patched, RuntimeError("no kernel for pages of 32"))
        assert lane.resize_cache(8 << 20) == 0
        updates += play(lane, at_most=10)
    assert ends(updates) == [(name, "Failed") for name in "abcd"]
    assert reply(lane, chat("next")).completion_tokens > 0


def test_an_error_while_the_cache_is_made_fails_the_waiting_chats_with_a_reason(
    monkeypatch: pytest.MonkeyPatch, lane: ChatLane
) -> None:
    lane.resize_cache(0)
    with monkeypatch.context() as patched:
        fail_making_the_cache(lane, patched, RuntimeError("no kernel for pages of 32"))
        updates = play(lane, four_chats(), at_most=10)

    assert ends(updates) == [(name, "Failed") for name in "abcd"]
    for update in updates:
        assert isinstance(update, Failed)
        assert update.code == "model_error"
        assert "KV cache" in update.message
        assert "kernel" not in update.message
        assert "no kernel for pages of 32" in update.detail
    assert reply(lane, chat("next")).completion_tokens > 0


def test_a_lost_device_is_not_taken_for_a_failed_cache(monkeypatch: pytest.MonkeyPatch, lane: ChatLane) -> None:
    fail_making_the_cache(lane, monkeypatch, RuntimeError("CUDA error: an illegal memory access was encountered"))
    with pytest.raises(RuntimeError, match="illegal memory access"):
        lane.resize_cache(8 << 20)
    lane.admit(chat("a"))
    with pytest.raises(RuntimeError, match="illegal memory access"):
        lane.step()
