"""Which language models share forwards, and how chats of the others take turns."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from benchmarks.conformance_chat import compare
from benchmarks.families.decoders import decoder
from pipelines.chat.lane import ChatLane
from pipelines.chat.proof import shares_forwards_correctly
from pipelines.chat_interface import ChatRequest
from pipelines.interface import Canceled, Replied, Update
from tests.support.lanes.tiny_chat import tiny_model, tiny_tokenizer
from tests.support.prompts import asked


def ask(name: str, **wanted: Any) -> ChatRequest:
    return ChatRequest(id=name, prompt=asked(tiny_tokenizer(), "hello"), **{"max_tokens": 6, **wanted})


def play(lane: ChatLane) -> list[Update]:
    updates: list[Update] = []
    while lane.has_work():
        updates += lane.step()
    return updates


@pytest.mark.parametrize("name", ["Llama", "Gemma2", "Qwen3Moe", "GPTNeoX", "GPT2"])
def test_greedy_tokens_equal_those_of_generate_alone_and_in_a_batch(name: str) -> None:
    row = compare(name)

    assert row.equal, row.note


def test_the_proof_tells_models_that_the_paged_batch_can_run_from_others() -> None:
    assert shares_forwards_correctly(decoder("Qwen2"))
    assert not shares_forwards_correctly(decoder("Mamba"))


def test_the_proof_rejects_a_model_whose_logits_differ_in_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    forward = model.forward

    def differs_in_a_batch(*args: Any, **kwargs: Any) -> Any:
        output = forward(*args, **kwargs)
        if "cu_seq_lens_q" in kwargs or "read_index" in kwargs:
            output.logits = output.logits.flip(-1)
        return output

    monkeypatch.setattr(model, "forward", differs_in_a_batch)

    assert not shares_forwards_correctly(model)


def test_an_unbatched_lane_takes_turns_and_warns_about_it() -> None:
    lane = ChatLane(tiny_model(), tiny_tokenizer(), cache_bytes=4 << 20, merging="off")
    for name in "ab":
        lane.admit(ask(name))

    updates = play(lane)

    assert {update.request_id for update in updates if isinstance(update, Replied)} == {"a", "b"}
    assert lane.merging == "off"
    assert "take turns" in lane.warnings[0]
    assert all(len(cost.request_ids) == 1 for cost in lane.take_costs() if hasattr(cost, "request_ids"))


def test_an_unbatched_chat_is_canceled_between_two_tokens_and_the_other_goes_on() -> None:
    lane = ChatLane(tiny_model(), tiny_tokenizer(), cache_bytes=4 << 20, merging="off")
    for name in "ab":
        lane.admit(ask(name))
    updates = [*lane.step(), *lane.step()]

    lane.cancel("a")
    updates += play(lane)

    assert Canceled("a") in updates
    assert [update.request_id for update in updates if isinstance(update, Replied)] == ["b"]
    lane.close()


@torch.inference_mode()
def test_an_unbatched_chat_samples_by_its_own_seed() -> None:
    texts = []
    for others in (0, 2):
        lane = ChatLane(tiny_model(), tiny_tokenizer(), cache_bytes=4 << 20, merging="off")
        for i in range(others):
            lane.admit(ask(f"other {i}", temperature=1.0, seed=i))
        lane.admit(ask("mine", temperature=1.0, seed=7, max_tokens=12))
        texts += [u.text for u in play(lane) if isinstance(u, Replied) and u.request_id == "mine"]

    assert texts[0] == texts[1]
