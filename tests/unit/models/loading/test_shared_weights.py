"""A chat model and a text encoder with the same weights hold them once, and both give what they give alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from benchmarks.families import FAMILIES, parts
from models.loading.load import load
from models.loading.shared_weights import SharedWeights
from models.spec import ModelSpec
from pipelines.chat_interface import ChatRequest
from pipelines.diffusion.lane import DiffusionLane
from pipelines.interface import Lane, Replied
from server.memory.ledger import Ledger
from tests.support.catalogues import open_catalogue
from tests.support.lanes.lane_play import rendered, request
from tests.support.prompts import asked

KLEIN = FAMILIES["Flux2KleinPipeline"]


@pytest.fixture(scope="module")
def specs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ModelSpec]:
    """klein: a Flux 2 klein. qwen: its text encoder saved by itself. other: the same with one tensor changed."""
    folder = tmp_path_factory.mktemp("shared")
    pipeline = KLEIN.build()
    pipeline.save_pretrained(folder / "models/klein")
    for name in ("qwen", "other"):
        pipeline.text_encoder.save_pretrained(folder / "models" / name)
        parts.qwen_tokenizer().save_pretrained(folder / "models" / name)
    weights = load_file(folder / "models/other/model.safetensors")
    last = max(weights)
    save_file({**weights, last: weights[last] + 0.01}, folder / "models/other/model.safetensors", {"format": "pt"})
    return {spec.name: spec for spec in open_catalogue(folder).specs()}


def picture(lane: Lane) -> np.ndarray:
    assert isinstance(lane, DiffusionLane)
    return rendered(lane, [request(KLEIN, "1", guidance_scale=None)])["1"].frames


def reply(lane: Lane) -> str:
    lane.admit(ChatRequest(id="1", prompt=asked(lane.tokenizer, "hello"), max_tokens=6))
    while lane.has_work():
        for update in lane.step():
            if isinstance(update, Replied):
                return update.text
    raise AssertionError("no reply")


class RecordedWeights(SharedWeights):
    """Records the modules that loaded models offer, in the order of loading."""

    def __init__(self) -> None:
        super().__init__()
        self.offered: list[torch.nn.Module] = []

    def offer(self, identity: str, dtype: torch.dtype, module: torch.nn.Module) -> None:
        self.offered.append(module)
        super().offer(identity, dtype, module)


def pointers(module: torch.nn.Module) -> set[int]:
    return {parameter.data_ptr() for parameter in module.parameters()}


def test_the_same_weights_in_two_folders_have_one_identity_and_a_changed_tensor_another(
    specs: dict[str, ModelSpec],
) -> None:
    (identity, n_bytes) = specs["qwen"].shareable["model"]

    assert specs["klein"].shareable == {"text_encoder": (identity, n_bytes)}
    assert n_bytes == specs["qwen"].weight_bytes
    assert specs["other"].shareable["model"][0] != identity


@pytest.mark.parametrize("first", ["klein", "qwen"])
def test_the_second_model_uses_the_memory_of_the_first_and_both_give_what_they_give_alone(
    specs: dict[str, ModelSpec], first: str
) -> None:
    alone = picture(load(specs["klein"], device="cpu")), reply(load(specs["qwen"], device="cpu", cache_bytes=4 << 20))
    shared, lanes = RecordedWeights(), {}
    for name in ("klein", "qwen") if first == "klein" else ("qwen", "klein"):
        lanes[name] = load(specs[name], device="cpu", cache_bytes=4 << 20, shared=shared)

    of_first, of_second = shared.offered
    assert of_first is not of_second
    assert pointers(of_first) == pointers(of_second)
    del of_first, of_second
    shared.offered.clear()  # from here only the lanes hold the weights
    np.testing.assert_allclose(picture(lanes["klein"]), alone[0], atol=1e-6)
    assert reply(lanes["qwen"]) == alone[1]
    np.testing.assert_allclose(picture(lanes["klein"]), alone[0], atol=1e-6)

    lanes.pop(first).close()  # the other lane keeps the weights
    if first == "klein":
        assert reply(lanes["qwen"]) == alone[1]
    else:
        np.testing.assert_allclose(picture(lanes["klein"]), alone[0], atol=1e-6)


def test_another_precision_shares_nothing(specs: dict[str, ModelSpec]) -> None:
    shared = RecordedWeights()
    load(specs["klein"], device="cpu", shared=shared)
    load(replace(specs["qwen"], dtype="bfloat16"), device="cpu", cache_bytes=4 << 20, shared=shared)

    encoder, chat_model = shared.offered
    assert not pointers(encoder) & pointers(chat_model)


def booked(ledger: Ledger, name: str, **components: int) -> None:
    """Books a loaded model as the engine does."""
    if "text_encoder" in components:
        ledger.share(name, "text_encoder", "qwen3")
    if "model" in components:
        ledger.share(name, "model", "qwen3")
    ledger.correct_weights(name, components, {})


def test_shared_weights_are_booked_once_and_released_with_the_last_model_that_uses_them() -> None:
    ledger = Ledger(name="gpu", capacity_bytes=100)
    booked(ledger, "klein", transformer=30, text_encoder=40)
    assert ledger.bytes_already_held({"model": ("qwen3", 40)}) == 40
    booked(ledger, "chat", model=40)

    assert ledger.booked_bytes == 70
    assert (ledger.freed_by("klein"), ledger.freed_by("chat")) == (30, 0)
    assert ledger.is_shared("klein")
    assert ledger.is_shared("chat")

    assert ledger.release("klein") == 30
    assert (ledger.booked_bytes, ledger.held_by("chat"), ledger.freed_by("chat")) == (40, 40, 40)
    assert not ledger.is_shared("chat")
    assert ledger.release("chat") == 40
    assert (ledger.booked_bytes, ledger.bytes_already_held({"model": ("qwen3", 40)})) == (0, 0)


def test_a_component_that_was_parked_and_comes_back_is_not_shared() -> None:
    ledger = Ledger(name="gpu", capacity_bytes=200, host_bytes=100)
    booked(ledger, "klein", transformer=30, text_encoder=40)
    ledger.correct_weights("klein", {}, {"transformer": 30, "text_encoder": 40})
    assert ledger.bytes_already_held({"model": ("qwen3", 40)}) == 0

    booked(ledger, "chat", model=40)
    ledger.correct_weights("klein", {"transformer": 30, "text_encoder": 40}, {})

    assert ledger.booked_bytes == 110
