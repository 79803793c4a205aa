"""Static decode steps of models with sliding windows, sinks or layers without positions give what `generate` gives."""

from __future__ import annotations

import pytest
import torch

from pipelines.chat.decode.options import DecodeOptions, not_static
from pipelines.chat.decode.steps import DecodeSteps
from pipelines.chat.page_size import paged_cache_bytes
from pipelines.chat.proof import prove
from pipelines.chat_interface import ChatRequest
from pipelines.interface import Replied
from tests.support.lanes.chat_play import TOKENIZER, chat, free_pages, play, replies
from tests.support.lanes.tiny_chat import tiny_lane
from tests.support.lanes.windowed_models import FAMILIES, LIMIT, family_model
from tests.support.prompts import asked

pytestmark = pytest.mark.usefixtures("one_thread")
STATIC = DecodeOptions(static=True)


def several(n: int = 4) -> list[ChatRequest]:
    """Texts from within a window to several pages; all begin with the same words."""
    return [chat(f"c{i}", "the sea " * 4 * i, max_tokens=40 - 7 * i) for i in range(n)]


def generated(model: object, requests: list[ChatRequest]) -> dict[str, str]:
    """What the model's own `generate` gives for each request alone."""
    texts = {}
    for request in requests:
        ids = torch.tensor([request.prompt.tokens])
        out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=request.max_tokens)  # type: ignore[attr-defined]
        texts[request.id] = TOKENIZER.decode(out[0, ids.shape[1] :], skip_special_tokens=True)
    return texts


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_replies_of_static_steps_equal_those_of_generate(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[int] = []
    launch = DecodeSteps.launch
    monkeypatch.setattr(
        DecodeSteps, "launch", lambda steps, states, **how: (rows.append(len(states)), launch(steps, states, **how))
    )
    model = family_model(family)
    expected = generated(model, several())
    proof = prove(model, STATIC)
    lane = tiny_lane(model, decode=proof.decode)
    got = {name: reply.text for name, reply in replies(lane, several()).items()}

    assert proof.decode.static, proof
    assert got == expected
    assert len({*got.values()}) == len(got)
    assert set(rows) == {1, 2, 3, 4}
    free, of = free_pages(lane)
    assert free == of


@pytest.mark.slow
@pytest.mark.parametrize("family", ["gemma 3", "gpt-oss", "phi 3"])
def test_a_chat_that_arrives_late_changes_nothing_for_others(family: str) -> None:
    model = family_model(family)
    expected = generated(model, several())
    lane = tiny_lane(model, decode=STATIC)
    updates = []
    for request in several():
        lane.admit(request)
        for _ in range(7):
            updates += lane.step()
    lane.admit(chat("goes", "away", max_tokens=90))
    updates += [update for _ in range(5) for update in lane.step()]
    lane.cancel("goes")
    updates += play(lane)

    assert {each.request_id: each.text for each in updates if isinstance(each, Replied)} == expected


@pytest.mark.slow
@pytest.mark.parametrize("family", ["gemma 3", "mistral"])
@pytest.mark.parametrize("window", [64, 70])
def test_a_window_of_several_pages_is_a_ring_that_texts_go_round(family: str, window: int) -> None:
    model = family_model(family, sliding_window=window)
    requests = [chat(f"c{i}", "the sea " * 9 * i, max_tokens=110 - 40 * i) for i in range(3)]
    expected = generated(model, requests)

    assert {name: reply.text for name, reply in replies(tiny_lane(model, decode=STATIC), requests).items()} == expected


@pytest.mark.parametrize("decode", [DecodeOptions(), STATIC], ids=["transformers", "static"])
def test_each_chat_has_the_rotary_frequencies_of_its_own_length(decode: DecodeOptions) -> None:
    """Two begin with the same pages, one short and one long; another outgrows the limit beside them."""
    model = family_model("phi 3 with longrope")
    same = "the same beginning "
    requests = [
        chat("short", same, max_tokens=5),
        chat("outgrows", "x", max_tokens=80),
        chat("long", same * 5, max_tokens=30),
        chat("just outgrows", same, max_tokens=LIMIT + 1 - len(asked(TOKENIZER, same).tokens)),
        chat("again", same * 5, max_tokens=9),
    ]
    expected = generated(model, requests)
    lane = tiny_lane(model, decode=decode)
    got = {}
    for request in requests:  # each begins after the one before has taken some steps
        lane.admit(request)
        got |= {each.request_id: each.text for _ in range(9) for each in lane.step() if isinstance(each, Replied)}
    got |= {each.request_id: each.text for each in play(lane) if isinstance(each, Replied)}

    assert len(asked(TOKENIZER, same).tokens) < LIMIT < len(asked(TOKENIZER, same * 5).tokens)
    assert got == expected


def test_frequencies_that_change_with_each_token_are_not_static() -> None:
    model = family_model("mistral", rope_parameters={"rope_type": "dynamic", "rope_theta": 10_000.0, "factor": 2.0})
    assert "(dynamic)" in not_static(model)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["gemma 3", "mistral"])
def test_a_chat_that_finds_no_page_for_one_kind_of_layers_loses_no_token(family: str) -> None:
    model = family_model(family)
    requests = [chat(f"long {i}", "x" * (5 + i), max_tokens=60) for i in range(3)]
    expected = generated(model, requests)
    lane = tiny_lane(model, decode=STATIC, cache_bytes=paged_cache_bytes(model, [140]))

    assert {name: reply.text for name, reply in replies(lane, requests).items()} == expected


def test_the_table_of_a_window_holds_no_more_pages_than_the_window_takes() -> None:
    lane = tiny_lane(family_model("gemma 3", sliding_window=70), decode=STATIC)
    ring, whole = lane._kv_cache.batch._decode._tables  # type: ignore[union-attr]

    assert (ring.window, ring.n_columns) == (70, 3)
    assert (whole.window, whole.n_columns) == (None, 512 // 32)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"layer_types": ["full_attention", "linear_attention", "full_attention"]}, "linear_attention"),
        ({"num_kv_shared_layers": 1}, "keys and values of other layers"),
    ],
)
def test_a_model_whose_layers_keep_no_keys_of_their_own_is_not_static(values: dict[str, object], reason: str) -> None:
    model = family_model("qwen 2")
    for name, value in values.items():
        setattr(model.config, name, value)

    assert reason in not_static(model)
