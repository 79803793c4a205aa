"""The built-in chat model, as `make models` converts it, answers, and its tokenizer splits text as in its training."""

from __future__ import annotations

from typing import Any

import pytest

from models.catalogue import Catalogue
from models.loading.load import load
from models.spec import ModelSpec
from pipelines.chat.lane import ChatLane
from pipelines.chat_interface import ChatRequest
from pipelines.interface import Replied
from server.process.settings import load_settings
from tests.support.prompts import asked

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def spec() -> ModelSpec:
    settings = load_settings()
    found = Catalogue.open(data_dir=settings.data_dir, cache_dir=settings.cache_dir).get("smollm2-135m")
    assert found.path is not None, "run `make models` first"
    return found


@pytest.fixture(scope="module")
def tokenizer(spec: ModelSpec) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(spec.path, local_files_only=True)


def test_the_catalogue_has_its_size_and_context(spec: ModelSpec) -> None:
    assert (spec.type, spec.default, spec.limits.context_tokens) == ("chat", True, 8192)
    embedding = 49_152 * 576  # of 134,515,008 parameters; the packed output layer is a copy of it
    assert 4 * embedding < spec.weight_bytes < 2 * 134_515_008


@pytest.mark.parametrize(
    "text", ["Hello, world!", "  two  spaces\n\n\tand a tab", "日本語 🙂 naïve", "def f(x):\n    return x"]
)
def test_the_tokenizer_gives_a_text_back(tokenizer: Any, text: str) -> None:
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_each_digit_is_a_token_and_so_is_the_blank_line_before_a_number(tokenizer: Any) -> None:
    assert [tokenizer.decode([token]) for token in tokenizer("a\n\n12")["input_ids"]] == ["a", "\n\n", "1", "2"]


def test_messages_are_marked_as_in_the_training_of_the_model(tokenizer: Any) -> None:
    messages = [{"role": "system", "content": "S"}, {"role": "user", "content": "U"}]

    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)

    assert prompt == "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\n"
    assert (tokenizer.eos_token, tokenizer.eos_token_id) == ("<|im_end|>", 2)


def test_the_model_answers_and_ends_its_answer_itself(spec: ModelSpec) -> None:
    lane = load(spec, device="cpu", cache_bytes=32 << 20)
    assert isinstance(lane, ChatLane)
    prompt = asked(lane.tokenizer, "What is the capital of France?")
    lane.admit(ChatRequest(id="1", prompt=prompt, max_tokens=40))

    held = lane.weight_bytes
    updates = [update for _ in range(50) for update in lane.step()]
    lane.close()

    (reply,) = [update for update in updates if isinstance(update, Replied)]
    assert "Paris" in reply.text
    assert reply.finish_reason == "stop"
    assert held < spec.weight_bytes, "its weights have four bits, and the estimate is for eight"
    assert (lane.merging, len(lane.notes)) == ("on", 1)
