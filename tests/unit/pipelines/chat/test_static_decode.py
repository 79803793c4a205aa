"""Static decode steps give the tokens of transformers' own, whoever joins, leaves, shares pages or runs out of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pipelines.chat.decode.attention import (
    UnsupportedAttention,
    attend_gathered,
    paged_decode,
    paged_decode_forward,
)
from pipelines.chat.decode.options import DecodeOptions
from pipelines.chat.decode.pages import Layer, Pages, reading
from pipelines.chat.decode.steps import DecodeSteps
from pipelines.chat.delivery import Delivery
from pipelines.chat.lane import ChatLane
from pipelines.chat.page_size import paged_cache_bytes
from pipelines.chat.proof import prove
from pipelines.chat_interface import ChatRequest
from pipelines.interface import Failed, Replied
from tests.support.lanes.chat_play import chat, ends, free_pages, play, replies
from tests.support.lanes.tiny_chat import tiny_lane, tiny_model

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]
AHEAD, IN_TURN = DecodeOptions(static=True), DecodeOptions(static=True, lookahead=False)


@pytest.fixture(params=[AHEAD, IN_TURN], ids=["ahead", "in turn"])
def decode(request: pytest.FixtureRequest) -> DecodeOptions:
    options: DecodeOptions = request.param
    return options


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows of each static forward."""
    rows: list[int] = []
    launch = DecodeSteps.launch

    def counted(steps: DecodeSteps, states: Any, **how: Any) -> None:
        rows.append(len(states))
        launch(steps, states, **how)

    monkeypatch.setattr(DecodeSteps, "launch", counted)
    return rows


def several(n: int = 6) -> list[ChatRequest]:
    """Greedy and drawn replies of different lengths, some of which cross pages of 32 tokens."""
    drawn: dict[str, Any] = {"temperature": 1.2, "top_p": 0.9, "repetition_penalty": 1.1}
    settings = [{} if i % 2 else {**drawn, "seed": i} for i in range(n)]
    return [
        chat(f"c{i}", "tell me of " + "the sea " * i, max_tokens=5 + 17 * i, **each) for i, each in enumerate(settings)
    ]


def test_replies_equal_those_of_transformers_own_steps(model: Any, decode: DecodeOptions, launches: list[int]) -> None:
    expected = replies(tiny_lane(model), several())
    assert not launches

    assert replies(tiny_lane(model, decode=decode), several()) == expected
    assert {1, 2, 3, 4, 5, 6} <= set(launches), "each chat that ends leaves a narrower batch"


def test_a_chat_that_arrives_while_others_decode_ahead_changes_nothing_for_them(
    model: Any, decode: DecodeOptions
) -> None:
    requests = several()
    expected = replies(tiny_lane(model), requests)
    lane = tiny_lane(model, decode=decode)
    updates = []
    for request in requests:
        lane.admit(request)
        for _ in range(4):
            updates += lane.step()
    updates += play(lane)

    assert {each.request_id: each for each in updates if isinstance(each, Replied)} == expected


def test_a_chat_that_came_and_went_in_transformers_steps_changes_nothing_for_the_others(
    model: Any, decode: DecodeOptions
) -> None:
    stays = [chat(f"stays {i}", "on" + "o" * i, max_tokens=90) for i in range(6)]
    expected = replies(tiny_lane(model), stays)
    lane = tiny_lane(model, decode=decode)
    for request in stays:
        lane.admit(request)
    updates = [update for _ in range(5) for update in lane.step()]
    for i in range(25):  # each has its prompt read and its only token in one step, in which others may get a new page
        lane.admit(chat(f"goes {i}", "away", max_tokens=1))
        updates += [update for _ in range(3) for update in lane.step()]
    updates += play(lane)

    got = {each.request_id: each for each in updates if isinstance(each, Replied)}
    assert len(got) == 31
    assert {name: got[name] for name in expected} == expected


def test_a_canceled_chat_frees_its_pages_although_a_forward_of_it_was_launched(
    model: Any, decode: DecodeOptions
) -> None:
    requests = [chat("stays", max_tokens=40), chat("goes", "other", max_tokens=40)]
    expected = replies(tiny_lane(model), requests)["stays"]
    lane = tiny_lane(model, decode=decode)
    for request in requests:
        lane.admit(request)
    updates = [update for _ in range(10) for update in lane.step()]
    lane.cancel("goes")
    updates += play(lane)

    assert ends(updates) == [("goes", "Canceled"), ("stays", "Replied")]
    assert expected in updates
    free, of = free_pages(lane)
    assert free == of


def test_chats_that_come_to_share_pages_read_the_page_that_is_kept(model: Any, decode: DecodeOptions) -> None:
    """The page that is given up is soon another chat's, whose pages fill at other times."""
    requests = [chat(name, "the same words", max_tokens=100) for name in ("a", "b", "c")]
    requests += [chat(f"other {i}", "x" * 5 * i, max_tokens=100, temperature=1.0, seed=i) for i in range(6)]
    expected = replies(tiny_lane(model), requests)
    got = replies(tiny_lane(model, decode=decode), requests)

    assert got == expected
    assert len({got[name].text for name in "abc"}) == 1


def test_a_chat_that_finds_no_page_is_put_back_and_loses_no_token(model: Any, decode: DecodeOptions) -> None:
    requests = [chat(f"long {i}", "x" * (5 + i), max_tokens=150, temperature=1.0, seed=i) for i in range(4)]
    expected = replies(tiny_lane(model), requests)
    lane = tiny_lane(model, decode=decode, cache_bytes=paged_cache_bytes(model, [320]))

    assert replies(lane, requests) == expected


def test_values_that_are_no_numbers_end_one_chat_and_no_token_of_it_is_read(decode: DecodeOptions) -> None:
    model = tiny_model()
    lane = tiny_lane(model, decode=decode)
    lane.admit(chat("a", max_tokens=30))
    for _ in range(5):
        lane.step()
    with torch.no_grad():
        model.lm_head.weight[5] = torch.nan
    (end,) = [update for update in play(lane) if isinstance(update, Failed)]

    assert (end.request_id, end.code) == ("a", "invalid_output")


def test_the_next_forward_is_launched_before_the_host_makes_text_of_the_tokens(
    model: Any, launches: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    lane = tiny_lane(model, decode=AHEAD)
    lane.admit(chat("a", max_tokens=30))
    lane.step()
    lane.step()
    begun = len(launches)
    monkeypatch.setattr(Delivery, "deliver", lambda *_: launches.append(0))
    lane.step()

    assert begun == 2, "the forward of the step, and the one after it"
    assert launches[begun:] == [1, 0]


def test_the_cache_counts_the_buffers_of_decode_steps(model: Any) -> None:
    stock, static = tiny_lane(model), tiny_lane(model, decode=AHEAD)
    vocabulary = model.config.vocab_size

    assert static.cache_bytes >= stock.cache_bytes + 32 * vocabulary * 4


@pytest.mark.parametrize("window", [None, 1, 3, 6, 8])
@pytest.mark.parametrize("softcap", [0.0, 1.5])
@pytest.mark.parametrize("has_sinks", [False, True])
def test_attention_over_pages_equals_attention_over_the_text_itself(
    window: int | None, softcap: float, has_sinks: bool
) -> None:
    torch.manual_seed(0)
    page_tokens, lengths, kv_heads, heads, dim = 4, [1, 4, 9], 2, 6, 8
    texts = [torch.randn(2, length, kv_heads, dim) for length in lengths]  # keys and values
    sinks = torch.randn(heads) if has_sinks else None
    cache = torch.full((2, 12, page_tokens, kv_heads, dim), 99.0)
    table = torch.tensor([[7, 2, 11], [5, 9, 3], [1, 4, 6]], dtype=torch.int32)  # (columns, rows)
    for row, length in enumerate(lengths):
        for token in range(length - 1):  # the new token is not in the cache yet
            slot = token % (window or length)
            cache[:, table[slot // page_tokens, row], slot % page_tokens] = texts[row][:, token]
    query = torch.randn(3, heads, dim)
    new_keys, new_values = (torch.stack([text[i, -1] for text in texts]) for i in range(2))
    positions = torch.tensor([length - 1 for length in lengths] + [0], dtype=torch.int32)
    pages = Pages([Layer(cache[0], cache[1], table, window)], positions)
    with reading(pages, 3, 3):
        mixed = attend_gathered(query, new_keys, new_values, 0.5, softcap, sinks, pages)

    for row, text in enumerate(texts):
        keys, values = (each.repeat_interleave(3, 1) for each in text[:, -(window or 99) :])
        scores = torch.einsum("hd,lhd->hl", query[row], keys) * 0.5
        if softcap:
            scores = torch.tanh(scores / softcap) * softcap
        weights = scores.exp() / (scores.exp().sum(-1) + (0 if sinks is None else sinks.exp()))[:, None]
        torch.testing.assert_close(mixed[row], torch.einsum("hl,lhd->hd", weights, values))
    slot = 8 % (window or 9)
    assert torch.equal(cache[0, table[slot // page_tokens, 2], slot % page_tokens], new_keys[2]), "it is in the cache"


@pytest.mark.parametrize("feature", [{"position_bias": torch.zeros(4)}, {"s_aux": torch.zeros(3)}])
def test_attention_that_no_kernel_computes_is_refused(feature: dict[str, Any]) -> None:
    query, key = torch.zeros(1, 4, 2, 8), torch.zeros(1, 2, 2, 8)
    with pytest.raises(UnsupportedAttention):
        paged_decode_forward(torch.nn.Module(), query, key, key, **feature)


def test_a_model_attends_in_pages_only_inside_the_block(model: Any) -> None:
    before = model.config._attn_implementation
    with paged_decode(model.config):
        assert model.config._attn_implementation != before
    assert model.config._attn_implementation == before


def test_the_proof_takes_static_steps_where_they_compute_what_the_model_computes(model: Any) -> None:
    assert prove(model, AHEAD).decode == AHEAD


def test_a_model_whose_static_steps_differ_keeps_transformers_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    forward = model.forward

    def differs(*args: Any, **kwargs: Any) -> Any:
        output = forward(*args, **kwargs)
        if model.config._attn_implementation == "paged_decode":
            output.logits = output.logits.flip(-1)
        return output

    monkeypatch.setattr(model, "forward", differs)
    proof = prove(model, AHEAD)

    assert (proof.merging, proof.decode.static, len(proof.notes)) == ("on", False, 1)


def test_a_lane_whose_cache_is_resized_under_static_steps_loses_no_token(model: Any, decode: DecodeOptions) -> None:
    lane: ChatLane = tiny_lane(model, decode=decode)
    expected = replies(tiny_lane(model), several())
    for request in several():
        lane.admit(request)
    updates = [update for _ in range(12) for update in lane.step()]
    lane.resize_cache(2 << 20)
    updates += play(lane)

    assert {each.request_id: each for each in updates if isinstance(each, Replied)} == expected
