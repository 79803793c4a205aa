"""Chats with pictures: each architecture writes what its own `generate` writes, alone and among other chats."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from PIL import Image

from models.checkpoint.read_checkpoint import read_checkpoint
from models.loading.load import load
from models.loading.processor import open_processor
from models.loading.prompt_reader import PromptReader
from models.spec import ModelSpec
from pipelines.chat.kv_cache import KVCache
from pipelines.chat.lane import ChatLane
from pipelines.chat.mixed_batch import MixedBatch
from pipelines.chat_interface import ChatRequest, Message, MessageImage, Prompt, PromptOptions
from pipelines.interface import Canceled, Failed, Replied, StepCost, Update
from tests.support.lanes.tiny_vision import FAMILIES, picture, write_checkpoint

N_TOKENS = 12
# Text before the pictures, the pictures, and the text behind them: of different numbers and sizes, and none.
CHATS: dict[str, tuple[str, Sequence[bytes], str]] = {
    "one": ("", [picture(40, 24)], "what is it?"),
    "none": ("hello", [], ""),
    "two": ("compare ", [picture(24, 50, 1), picture(64, 64, 2)], " now"),
    "long": ("a long text without pictures " * 4, [], ""),
    "small": ("see", [picture(16, 17, 3, "JPEG")], ""),
}


@dataclass(frozen=True, eq=False)
class Model:
    spec: ModelSpec
    reader: PromptReader
    own: Any  # the library's model and processor
    processor: Any

    def lane(self) -> ChatLane:
        model = transformers.AutoModelForImageTextToText.from_pretrained(self.spec.path).eval()
        return ChatLane(model, self.processor.tokenizer, cache_bytes=8 << 20, takes_images=True)

    def prompt(self, name: str) -> Prompt:
        before, pictures, behind = CHATS[name]
        images = tuple(MessageImage(len(before), data, place=name) for data in pictures)
        return self.reader.read(self.spec, [Message("user", before + behind, images=images)], PromptOptions())

    def request(self, name: str, **wanted: Any) -> ChatRequest:
        return ChatRequest(id=name, prompt=self.prompt(name), **{"max_tokens": N_TOKENS, **wanted})

    def inputs(self, name: str) -> Any:
        """What the library's processor makes of the chat."""
        before, pictures, behind = CHATS[name]
        parts: list[dict[str, Any]] = [{"type": "text", "text": before}] if before else []
        parts += [{"type": "image", "image": Image.open(io.BytesIO(data)).convert("RGB")} for data in pictures]
        parts += [{"type": "text", "text": behind}] if behind else []
        conversation = [{"role": "user", "content": parts}]
        options = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "return_tensors": "pt"}
        return self.processor.apply_chat_template(conversation, **options)

    def generated(self, name: str) -> str:
        return _generated(self, name)


@cache
def _generated(model: Model, name: str) -> str:
    inputs = model.inputs(name)
    options: dict[str, Any] = {"max_new_tokens": N_TOKENS, "min_new_tokens": N_TOKENS, "do_sample": False}
    tokens = model.own.generate(**inputs, **options)[0, inputs["input_ids"].shape[1] :]
    return str(model.processor.tokenizer.decode(tokens))


@cache
def _model(folder: Path, family: str) -> Model:
    write_checkpoint(folder / family, family)
    spec = read_checkpoint(folder / family, name=family, source=family, float_bytes=4)
    processor = open_processor(folder / family)
    if family == "smolvlm":  # its `apply_chat_template` asks for them, of videos that may come
        processor.video_processor.num_frames = processor.video_processor.fps = 1
    own = transformers.AutoModelForImageTextToText.from_pretrained(folder / family).eval()
    return Model(spec, PromptReader(), own, processor)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("vision")


@pytest.fixture
def qwen(folder: Path) -> Model:
    return _model(folder, "qwen2_5_vl")


def play(lane: ChatLane) -> dict[str, Update]:
    ends: dict[str, Update] = {}
    while lane.has_work():
        for update in lane.step():
            if isinstance(update, Replied | Failed | Canceled):
                ends[update.request_id] = update
    return ends


def texts(ends: Mapping[str, Update]) -> dict[str, str]:
    return {name: end.text for name, end in ends.items() if isinstance(end, Replied)}


@pytest.mark.slow  # a load, a proof and ten replies of each architecture
@pytest.mark.parametrize("family", FAMILIES)
def test_chats_get_what_generate_writes_alone_and_among_others(folder: Path, family: str) -> None:
    model = _model(folder, family)
    lane = load(model.spec, device="cpu", smoke_tested=set())
    assert isinstance(lane, ChatLane)
    expected = {name: model.generated(name) for name in CHATS}

    assert (model.spec.takes_images, lane.merging, lane.warnings) == (True, "on", ())
    for name in CHATS:
        prompt, inputs = model.prompt(name), model.inputs(name)
        assert list(prompt.tokens) == inputs["input_ids"][0].tolist()
        assert (prompt.media is not None) == bool(CHATS[name][1])
        for argument, array in prompt.media.inputs.items() if prompt.media else ():
            assert torch.equal(torch.from_numpy(array), inputs[argument])
    for names in (["two"], ["none"], list(CHATS)):
        for name in names:
            lane.admit(model.request(name))
        assert texts(play(lane)) == {name: expected[name] for name in names}


def test_a_chat_with_pictures_keeps_its_logits_whatever_runs_beside_it(qwen: Model) -> None:
    """Log probabilities to the last bit, also where tokens are drawn; text chats join and leave in between."""
    lane = qwen.lane()
    wanted = {"temperature": 1.0, "seed": 7, "n_logprobs": 3}

    def logprobs(*beside: str) -> list[Any]:
        found: list[Any] = []
        lane.admit(qwen.request("two", **wanted))
        for name in beside:
            lane.admit(qwen.request(name, max_tokens=5))
        while lane.has_work():
            for update in lane.step():
                if update.request_id == "two":
                    found += getattr(update, "logprobs", ())
        return found

    alone = logprobs()

    assert len(alone) >= 1
    assert logprobs("none", "one", "long") == alone


def test_text_chats_share_forwards_while_chats_with_pictures_take_turns(qwen: Model) -> None:
    lane = qwen.lane()
    for name in CHATS:
        lane.admit(qwen.request(name))
    forwards: list[frozenset[str]] = []
    while lane.has_work():
        lane.step()
        forwards += [frozenset(cost.request_ids) for cost in lane.take_costs() if isinstance(cost, StepCost)]

    assert frozenset({"none", "long"}) in forwards
    assert {len(ids) for ids in forwards if ids & {"one", "two", "small"}} == {1}


def test_a_chat_that_is_put_back_reads_its_pictures_again(qwen: Model) -> None:
    lane = qwen.lane()
    expected = qwen.generated("two")
    lane.admit(qwen.request("two"))
    lane.admit(qwen.request("none"))
    for _ in range(9):
        lane.step()
    lane.resize_cache(lane.cache_bytes // 2)

    assert texts(play(lane)) == {"two": expected, "none": qwen.generated("none")}


def test_a_canceled_chat_leaves_at_once_and_the_others_go_on(qwen: Model) -> None:
    lane = qwen.lane()
    for name in ("one", "two", "none"):
        lane.admit(qwen.request(name))
    for _ in range(5):
        lane.step()
    lane.cancel("two")
    ends = play(lane)

    assert isinstance(ends["two"], Canceled)
    assert texts(ends) == {name: qwen.generated(name) for name in ("one", "none")}


def test_a_forward_that_runs_out_of_memory_is_tried_again_without_losing_a_token(
    qwen: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    lane = qwen.lane()
    step, failures = MixedBatch.step, [torch.OutOfMemoryError("CUDA out of memory")]

    def failing(batch: MixedBatch, *arguments: Any) -> Any:
        if len(batch.part_for(has_media=True)) == 2 and failures:
            raise failures.pop()
        return step(batch, *arguments)

    monkeypatch.setattr(MixedBatch, "step", failing)
    for name in ("one", "two"):
        lane.admit(qwen.request(name))

    assert texts(play(lane)) == {name: qwen.generated(name) for name in ("one", "two")}
    assert not failures


def test_an_error_about_a_picture_fails_that_chat_alone(qwen: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    lane = qwen.lane()
    own = transformers.Qwen2_5_VLModel.get_image_features

    def broken(model: Any, pixel_values: Any, image_grid_thw: Any, **options: Any) -> Any:
        if len(image_grid_thw) == 2:
            raise RuntimeError("a kernel is missing")
        return own(model, pixel_values, image_grid_thw, **options)

    monkeypatch.setattr(transformers.Qwen2_5_VLModel, "get_image_features", broken)
    for name in ("none", "one", "two"):
        lane.admit(qwen.request(name))
    ends = play(lane)
    failed = ends.pop("two")

    assert isinstance(failed, Failed)
    assert (failed.code, "a kernel is missing" in failed.detail) == ("model_error", True)
    assert texts(ends) == {name: qwen.generated(name) for name in ("none", "one")}


def test_pictures_longer_than_the_context_are_refused_in_the_lane(qwen: Model) -> None:
    lane = qwen.lane()
    lane._max_lengths[True] = len(qwen.prompt("two").tokens)
    lane.admit(qwen.request("two"))
    [failed] = play(lane).values()

    assert isinstance(failed, Failed)
    assert failed.code == "context_overflow"


def test_the_cache_grows_for_pictures_that_need_more_of_it(qwen: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the cache is that of chats with pictures."""
    monkeypatch.setitem(CHATS, "many", ("", [picture(64, 64, seed) for seed in range(24)], ""))
    lane = qwen.lane()
    least = 2 * _smallest_half(lane)
    lane._kv_cache = KVCache(lane._kv_cache._make_batch, least)
    lane._admission._kv_cache = lane._kv_cache
    lane.admit(qwen.request("many"))

    assert texts(play(lane)) == {"many": qwen.generated("many")}
    assert lane.cache_bytes > least


def _smallest_half(lane: ChatLane) -> int:
    n_bytes = 1 << 12
    while True:
        try:
            lane._kv_cache._make_batch(2 * n_bytes).close()
        except ValueError:
            n_bytes += 1 << 12
        else:
            return n_bytes


def test_a_model_that_fails_the_proof_runs_all_its_chats_in_turns(qwen: Model) -> None:
    tokenizer = qwen.processor.tokenizer
    lane = ChatLane(qwen.own, tokenizer, cache_bytes=4 << 20, merging="off", takes_images=True)
    for name in CHATS:
        lane.admit(qwen.request(name))

    assert texts(play(lane)) == {name: qwen.generated(name) for name in CHATS}
