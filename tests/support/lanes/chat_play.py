"""Runs chats through a chat lane to their ends."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pipelines.chat.lane import ChatLane
from pipelines.chat_interface import ChatRequest
from pipelines.interface import Canceled, Failed, Replied, Update
from tests.support.lanes.tiny_chat import tiny_tokenizer
from tests.support.prompts import asked

TOKENIZER = tiny_tokenizer()


def chat(name: str, text: str = "", *, max_tokens: int | None = 12, **settings: Any) -> ChatRequest:
    """A chat with a tiny model: its prompt is made by the tokenizer of `tiny_chat`."""
    prompt = asked(TOKENIZER, text or f"hello {name}")
    return ChatRequest(id=name, prompt=prompt, max_tokens=max_tokens, **settings)


def play(lane: ChatLane, requests: Iterable[ChatRequest] = (), *, at_most: int = 2_000) -> list[Update]:
    """Admit the requests and step until nothing is left."""
    for request in requests:
        lane.admit(request)
    updates: list[Update] = []
    for _ in range(at_most):
        if not lane.has_work():
            return updates
        updates += lane.step()
    raise AssertionError("the lane never came to an end")


def replies(lane: ChatLane, requests: Iterable[ChatRequest]) -> dict[str, Replied]:
    return {update.request_id: update for update in play(lane, requests) if isinstance(update, Replied)}


def reply(lane: ChatLane, request: ChatRequest) -> Replied:
    return replies(lane, [request])[request.id]


def ends(updates: Iterable[Update]) -> list[tuple[str, str]]:
    return [(u.request_id, type(u).__name__) for u in updates if isinstance(u, Replied | Failed | Canceled)]


def free_pages(lane: ChatLane) -> tuple[int, int]:
    """(pages of the KV cache that no sequence holds, all pages). Drops the blocks that are cached for equal prompts."""
    batch = lane._kv_cache.batch
    assert batch is not None
    batch._cache.evict_cached_blocks()
    batch._cache.pool.try_to_free_sectors()
    return int(batch._cache.pool.num_free_sectors), batch.n_pages


def four_chats() -> list[ChatRequest]:
    return [chat(name, f"count {i}", max_tokens=12, temperature=0.8, seed=i) for i, name in enumerate("abcd")]


def start_four(lane: ChatLane, n_steps: int = 4) -> list[Update]:
    for request in four_chats():
        lane.admit(request)
    return [update for _ in range(n_steps) for update in lane.step()]
