"""Which chats run: as many as fit with what they hold now, and none that has begun is read in again too often."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipelines.chat.admission import RESERVE_TOKENS, Admission
from pipelines.chat.kv_cache import KVCache, make_batch
from pipelines.chat.queue import ChatQueue, length_of
from pipelines.chat.unbatched import SequentialBatch

CONFIG = SimpleNamespace(num_hidden_layers=1, num_attention_heads=1, hidden_size=1)
MODEL = SimpleNamespace(dtype=torch.float32, config=SimpleNamespace(get_text_config=lambda: CONFIG))
TOKEN_BYTES = 8  # a key and a value in float32
PAGE = 32


@dataclass
class Chat:
    """What the admission reads and writes of a chat."""

    id: str
    prompt: list[int]
    max_length: int
    ends_at: int = 1 << 30  # tokens of its reply
    tokens: list[int] = field(default_factory=list)
    n_pages: int = 0
    n_prompt_logprobs: int | None = None
    request: Any = field(default_factory=lambda: SimpleNamespace(owner="", prompt=SimpleNamespace(media=None)))

    @property
    def n_tokens(self) -> int:
        return len(self.tokens)

    @property
    def has_ended(self) -> bool:
        return self.n_tokens >= min(self.ends_at, self.max_length - len(self.prompt))


def chat(name: str, n_prompt: int = 10, ceiling: int = 8_192, ends_at: int = 1 << 30) -> Chat:
    return Chat(name, [1] * n_prompt, n_prompt + ceiling, ends_at)


class World:
    """A queue and its cache. A step gives each running chat a token, as a forward of the lane does."""

    def __init__(self, cache_tokens: int, chats: Sequence[Chat] = (), *, max_running: int = 32) -> None:
        self.queue = ChatQueue()
        self.queue.waiting.extend(chats)  # type: ignore[arg-type]
        make = functools.partial(make_batch, MODEL, max_running, lambda ids, logits: None, "sequential")
        self.kv_cache = KVCache(make, cache_tokens * TOKEN_BYTES)
        self.admission = Admission(MODEL, self.queue, self.kv_cache, "sequential")
        self.max_running = max_running
        self.reads: list[str] = []  # each time that a chat was read in
        self.ended: list[str] = []
        self.n_steps = 0

    @property
    def running(self) -> list[str]:
        return list(self.queue.running)

    @property
    def n_reads(self) -> Counter[str]:
        return Counter(self.reads)

    @property
    def batch(self) -> SequentialBatch:
        assert isinstance(self.kv_cache.batch, SequentialBatch)
        return self.kv_cache.batch

    def step(self) -> None:
        self.n_steps += 1
        assert self.n_steps < 50_000, "it would never end"
        _, too_large = self.admission.admit(self.max_running)
        assert too_large is None
        self.reads += [one.id for one in self.queue.unread()]
        running: list[Any] = list(self.queue.running.values())
        assert sum(self.batch.pages_for(length_of(one)) for one in running) <= self.batch.n_pages
        assert set(self.batch._sequences) == set(self.running)
        for one in running:
            one.tokens.append(1)
            if one.has_ended:
                self.batch.remove(one.id)
                self.queue.remove([one.id])
                self.ended.append(one.id)

    def play(self) -> None:
        while self.queue:
            self.step()


def test_32_chats_with_ceilings_of_8192_tokens_run_at_once_in_a_cache_of_16k_tokens() -> None:
    world = World(16_384, [chat(f"c{i}", 100, ends_at=300 + i) for i in range(32)])
    world.step()
    assert len(world.running) == 32
    world.play()
    assert set(world.n_reads.values()) == {1}


def test_a_chat_reserves_no_more_than_it_may_still_need() -> None:
    world = World(10 * PAGE, [chat(str(i), n_prompt=PAGE, ceiling=PAGE) for i in range(6)])
    world.step()
    assert len(world.running) == 5


def test_a_chat_begins_only_when_all_that_run_have_their_reserve_too() -> None:
    """Otherwise it would be put back as soon as one of those needs a page."""
    first, second = chat("a", 200), chat("b", 200)
    world = World(2 * (200 + RESERVE_TOKENS) + 100, [first])
    for _ in range(150):
        world.step()
    world.queue.waiting.append(second)  # type: ignore[arg-type]
    world.step()
    assert world.running == ["a"]


def test_when_the_cache_is_full_the_chat_that_arrived_last_waits_and_the_oldest_ends_first() -> None:
    world = World(1_024, [chat("a", 100, ceiling=900), chat("b", 100, ceiling=900)])
    while world.running != ["a"]:
        world.step()
    (waiting,) = world.queue.waiting
    assert (waiting.id, waiting.n_tokens) == ("b", 1_024 // 2 - 100 + 1), "with all its tokens"
    world.play()
    assert world.ended == ["a", "b"]


def test_two_long_chats_do_not_read_each_other_out_of_the_cache() -> None:
    world = World(10_240, [chat("a", 100), chat("b", 100)])
    world.play()
    assert world.n_reads == {"a": 1, "b": 2}


def test_an_old_chat_that_was_put_back_goes_before_younger_ones() -> None:
    world = World(1_024, [chat(name, 60, ceiling=900) for name in "abc"])
    world.step()
    while len(world.running) > 1:
        world.step()
    world.queue.waiting.append(chat("d", 10, ceiling=10))  # type: ignore[arg-type]  # would fit
    assert [one.id for one in world.queue.waiting] == ["b", "c", "d"]
    world.play()
    assert world.reads == ["a", "b", "c", "b", "c", "d"]


@given(
    st.integers(20, 60),
    st.lists(st.tuples(st.integers(1, 300), st.integers(1, 600), st.integers(1, 600)), min_size=1, max_size=12),
    st.integers(1, 12),
)
def test_all_chats_end_with_few_reads_and_the_running_ones_are_always_the_oldest(
    n_pages: int, sizes: list[tuple[int, int, int]], max_running: int
) -> None:
    chats = [
        chat(str(i), n_prompt, ceiling=min(ceiling, n_pages * PAGE - n_prompt), ends_at=ends_at)
        for i, (n_prompt, ceiling, ends_at) in enumerate(sizes)
    ]
    world = World(n_pages * PAGE, chats, max_running=max_running)
    oldest: str | None = None
    while world.queue:
        world.step()
        left = [one.id for one in chats if one.id not in world.ended]
        assert world.running == left[: len(world.running)]
        if oldest in left:
            assert world.running[0] == oldest
        oldest = left[0] if left else None
    for one in chats:
        assert world.n_reads[one.id] <= 1 + one.n_tokens // (RESERVE_TOKENS - PAGE)
    assert len(world.ended) == len(chats)


def test_a_chat_that_is_read_in_again_counts_as_unread() -> None:
    world = World(1_024, [chat("a", 100, ceiling=900, ends_at=450), chat("b", 100, ceiling=900)])
    while world.running != ["a"]:
        world.step()
    while world.running == ["a"]:
        assert not world.queue.unread()
        world.step()
    world.admission.admit(32)
    assert [one.id for one in world.queue.unread()] == ["b"]
    step = world.queue.next_step(32)
    assert step is not None
    assert (step.stage, step.request_ids, step.units) == ("prefill", ("b",), 513)
    world.step()
    assert not world.queue.unread()


def test_the_next_step_reads_no_prompt_while_a_chat_waits_for_room() -> None:
    world = World(1_024, [chat("a", 600), chat("b", 600)])
    before = world.queue.next_step(32)
    world.step()
    after = world.queue.next_step(32)
    assert before is not None
    assert (before.stage, before.request_ids, before.units) == ("prefill", ("a", "b"), 600)
    assert after is not None
    assert (after.stage, after.request_ids) == ("decode", ("a",))
    world.queue.cancel("a")
    freed = world.queue.next_step(32)
    assert freed is not None
    assert (freed.stage, freed.request_ids) == ("prefill", ("b",))


def test_a_chat_that_was_put_back_can_be_canceled() -> None:
    world = World(1_024, [chat("a", 100, ceiling=900), chat("b", 100, ceiling=900)])
    while not world.queue.waiting:
        world.step()
    world.queue.waiting.append(chat("c", 10, ceiling=20))  # type: ignore[arg-type]
    world.queue.cancel("b")
    assert world.admission.remove_canceled() == ["b"]
    world.step()
    assert world.running == ["a", "c"]


def test_a_cache_that_was_made_smaller_is_made_larger_again_a_few_times_only() -> None:
    world = World(8_192, [chat("a", 100, ceiling=8_000)])
    world.step()
    world.admission.resize_cache(0)
    assert world.batch.max_length == 384, "what it holds, and its reserve"
    world.play()
    assert world.n_reads["a"] <= 6


def test_the_cache_keeps_room_for_what_runs_and_its_reserve() -> None:
    world = World(8_192, [chat("a", 100, ceiling=8_000), chat("b", 100, ceiling=10)])
    world.step()
    world.admission.resize_cache(0)
    world.step()
    assert world.running == ["a", "b"]
    assert world.kv_cache.cache_bytes == ((384 + 128) * TOKEN_BYTES)


def test_a_chat_that_no_cache_can_hold_is_returned(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(1_024, [chat("a", 2_000)])
    make = world.kv_cache._make_batch
    monkeypatch.setattr(world.kv_cache, "_make_batch", lambda n_bytes: make(min(n_bytes, 1_024 * TOKEN_BYTES)))
    _, too_large = world.admission.admit(32)
    assert too_large is world.queue.waiting[0]


class TwoParts:
    """Has a part of its own for chats with pictures, each of this size, as a vision-language model's batch."""

    def __init__(self, cache_bytes: int) -> None:
        part = functools.partial(SequentialBatch, MODEL, max_rows=32, sampler=lambda ids, logits: None)
        self.parts = {media: part(cache_bytes=cache_bytes) for media in (False, True)}

    def part_for(self, has_media: bool) -> SequentialBatch:
        return self.parts[has_media]

    def has_room(self) -> bool:
        return True

    def add(self, sequence_id: str, prompt: Any, owner: Any, n_logprobs: Any, media: Any) -> None:
        self.parts[media is not None].add(sequence_id, prompt)

    def remove(self, sequence_id: str) -> None:
        for part in self.parts.values():
            part.remove(sequence_id)

    def close(self) -> None:
        pass


def seen(name: str, n_prompt: int) -> Chat:
    """A chat with pictures."""
    request = SimpleNamespace(owner="", prompt=SimpleNamespace(media=object()))
    return Chat(name, [1] * n_prompt, n_prompt + 8_192, request=request)


def two_parts(*chats: Chat) -> tuple[Admission, ChatQueue]:
    """An admission to two parts of 1024 tokens each."""
    queue = ChatQueue()
    queue.waiting.extend(chats)  # type: ignore[arg-type]
    kv_cache = KVCache(TwoParts, 1024 * TOKEN_BYTES)  # type: ignore[arg-type]
    return Admission(MODEL, queue, kv_cache, "sequential"), queue


def test_chats_without_pictures_do_not_wait_for_the_part_of_those_with_pictures() -> None:
    admission, queue = two_parts(seen("p1", 600), seen("p2", 600), chat("t1"), seen("p3", 10), chat("t2"))

    admission.admit(32)

    assert (list(queue.running), [each.id for each in queue.waiting]) == (["p1", "t1", "t2"], ["p2", "p3"])
    assert queue.full_for == {True}
    queue.remove(["p1"])
    admission.admit(32)
    assert (list(queue.running), [each.id for each in queue.waiting]) == (["t1", "t2", "p2"], ["p3"])


def test_no_chat_goes_before_one_that_needs_a_larger_cache() -> None:
    admission, queue = two_parts(chat("t1"), seen("p1", 5_000), chat("t2"))

    admission.admit(32)
    assert list(queue.running) == ["t1"]
    queue.remove(["t1"])
    admission.admit(32)

    assert list(queue.running) == ["p1", "t2"]


def test_a_part_that_is_outgrown_puts_back_its_own_newest_chat() -> None:
    admission, queue = two_parts(chat("t1", 200), chat("t2", 200), seen("p1", 200))
    admission.admit(32)
    assert list(queue.running) == ["t1", "t2", "p1"]

    for name in ("t1", "t2"):
        queue.running[name].tokens += [1] * 400
    admission.admit(32)

    assert (list(queue.running), [each.id for each in queue.waiting]) == (["t1", "p1"], ["t2"])


def test_both_kinds_of_chats_count_where_they_share_the_pages() -> None:
    world = World(1024, [chat("t1", 500), seen("p1", 500)])

    world.admission.admit(32)

    assert world.running == ["t1"]
