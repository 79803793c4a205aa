"""Prompts are read on worker threads, with a few tokenizers that stay open."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from models.errors import BadModel
from models.loading.prompt_reader import PromptReader
from models.spec import Limits, LoadOptions, ModelSpec
from pipelines.chat_interface import (
    Grammar,
    Message,
    PromptOptions,
    PromptRefused,
    PromptTooLong,
    RawPrompt,
    Tool,
    ToolUse,
)
from tests.support.catalogues import open_catalogue
from tests.support.chat_tokenizers import chat_tokenizer
from tests.support.lanes.loaded_models import save_chat

HI = [Message("user", "Hi")]
PLAIN = PromptOptions()
MODEL = ModelSpec(
    name="m", type="chat", path=Path("m"), source="m", fingerprint="1", limits=Limits(context_tokens=1000)
)


class Opener:
    """Counts the tokenizers that it opens."""

    def __init__(self, tokenizer: Any = None) -> None:
        self.opened: list[str] = []
        self._tokenizer = tokenizer

    def __call__(self, spec: ModelSpec, path: Path) -> Any:
        self.opened.append(spec.fingerprint)
        return self._tokenizer or chat_tokenizer("chatml")


def test_a_saved_model_is_read_as_its_own_tokenizer_reads_it(tmp_path: Path) -> None:
    save_chat(tmp_path / "models/tiny")
    spec = open_catalogue(tmp_path).get("tiny")

    prompt = PromptReader().read(spec, HI, PLAIN)

    assert prompt.opening == "<|im_end|>\n<|im_start|>assistant\n"
    assert PromptReader().n_tokens_known(spec) == 99


def test_a_reader_is_made_without_torch() -> None:
    program = "import sys; from models.loading.prompt_reader import PromptReader; PromptReader(); "
    program += "print('torch' in sys.modules, 'transformers' in sys.modules)"

    assert subprocess.check_output([sys.executable, "-c", program], text=True) == "False False\n"


def test_a_tokenizer_is_opened_once_even_when_several_threads_need_it() -> None:
    opener, began = Opener(), threading.Barrier(4)
    reader = PromptReader(opener)

    def read() -> tuple[int, ...]:
        began.wait()
        return reader.read(MODEL, HI, PLAIN).tokens

    with ThreadPoolExecutor(4) as pool:
        results = {future.result() for future in [pool.submit(read) for _ in range(4)]}

    assert len(results) == 1
    assert opener.opened == ["1"]


def test_a_tokenizer_serves_one_thread_at_a_time() -> None:
    tokenizer = chat_tokenizer("chatml")
    inside, seen = threading.Semaphore(1), []
    render = tokenizer.apply_chat_template

    def alone(*args: Any, **options: Any) -> Any:
        seen.append(inside.acquire(blocking=False))
        try:
            return render(*args, **options)
        finally:
            inside.release()

    tokenizer.apply_chat_template = alone
    reader = PromptReader(Opener(tokenizer))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: reader.read(MODEL, HI, PLAIN), range(40)))

    assert all(seen)
    assert len(seen) == 80


def test_the_tokenizers_used_last_stay_open() -> None:
    opener = Opener()
    reader = PromptReader(opener, max_open=2)

    for fingerprint in ("a", "b", "a", "c", "a", "b"):
        reader.read(replace(MODEL, fingerprint=fingerprint), HI, PLAIN)

    assert opener.opened == ["a", "b", "c", "b"]


def test_another_template_or_another_file_is_another_tokenizer() -> None:
    opener = Opener()
    reader = PromptReader(opener)

    for spec in (MODEL, replace(MODEL, fingerprint="2"), replace(MODEL, load=LoadOptions(chat_template="vicuna"))):
        reader.read(spec, HI, PLAIN)
        reader.read(spec, HI, PLAIN)

    assert opener.opened == ["1", "2", "1"]


def test_a_prompt_that_leaves_no_room_for_a_reply_is_too_long() -> None:
    reader = PromptReader(Opener())
    n_tokens = len(reader.read(MODEL, HI, PLAIN).tokens)

    assert reader.read(replace(MODEL, limits=Limits(context_tokens=n_tokens + 1)), HI, PLAIN)
    with pytest.raises(PromptTooLong, match=f"maximum context length is {n_tokens} tokens") as error:
        reader.read(replace(MODEL, limits=Limits(context_tokens=n_tokens)), HI, PLAIN)
    assert error.value.n_tokens == n_tokens


def test_a_text_far_beyond_the_context_is_refused_before_all_of_it_is_tokenized() -> None:
    tokenizer = chat_tokenizer("chatml")
    read: list[int] = []
    encode = tokenizer.encode
    tokenizer.encode = lambda text, **options: (read.append(len(text)), encode(text, **options))[1]

    with pytest.raises(PromptTooLong) as error:
        PromptReader(Opener(tokenizer)).read(MODEL, [Message("user", "hi " * 2_000_000)], PLAIN)

    assert error.value.n_tokens >= 1000
    assert sum(read) <= 1 << 17


def test_a_long_text_that_fits_is_read() -> None:
    """Tokens may be long: this one has many more characters than the context has tokens."""
    tokenizer = chat_tokenizer("chatml")
    tokenizer.add_tokens(["x" * 1000])

    prompt = PromptReader(Opener(tokenizer)).read(MODEL, [Message("user", "x" * 100_000)], PLAIN)

    assert 100 < len(prompt.tokens) < 150


def test_descriptions_of_tools_that_leave_no_room_are_refused_early() -> None:
    use = ToolUse(tools=tuple(Tool(f"f{i}", "a word " * 4_000) for i in range(100)))
    reader = PromptReader(Opener())

    with pytest.raises(PromptTooLong, match="but tools has at least") as error:
        reader.read(MODEL, HI, PromptOptions(tool_use=use))
    assert error.value.field == "tools"
    assert reader.read(MODEL, HI, PromptOptions(tool_use=replace(use, choice="none")))


def test_more_messages_than_the_context_has_tokens_are_too_long() -> None:
    with pytest.raises(PromptTooLong):
        PromptReader(Opener()).read(MODEL, [Message("user", "")] * 1001, PLAIN)


def test_what_the_library_raises_is_a_refusal_without_its_text() -> None:
    tokenizer = chat_tokenizer("chatml")

    def fail(*args: Any, **options: Any) -> Any:
        raise RuntimeError("a path")

    tokenizer.encode = fail
    with pytest.raises(PromptRefused) as error:
        PromptReader(Opener(tokenizer)).read(MODEL, HI, PLAIN)

    assert error.value.message == "The model's tokenizer fails on these messages."
    assert "a path" in error.value.detail


def test_a_tokenizer_that_does_not_open_is_tried_again(tmp_path: Path) -> None:
    save_chat(tmp_path / "models/tiny")
    spec = open_catalogue(tmp_path).get("tiny")
    file = tmp_path / "models/tiny/tokenizer.json"
    whole, reader = file.read_text(), PromptReader()
    file.write_text("{}")

    with pytest.raises(BadModel, match="the tokenizer cannot be opened"):
        reader.read(spec, HI, PLAIN)

    file.write_text(whole)
    assert reader.read(spec, HI, PLAIN)


def test_a_model_that_is_not_downloaded_has_no_tokenizer() -> None:
    with pytest.raises(BadModel, match="is not downloaded"):
        PromptReader().read(replace(MODEL, path=None), HI, PLAIN)


def test_the_context_of_the_config_class_counts_where_the_config_names_none(tmp_path: Path) -> None:
    save_chat(tmp_path / "models/tiny")
    spec = open_catalogue(tmp_path).get("tiny")
    silent = replace(spec, limits=Limits(context_tokens=None))

    with pytest.raises(PromptTooLong, match="maximum context length is 1024 tokens"):
        PromptReader().read(silent, [Message("user", "x" * 2000)], PLAIN)


def test_a_raw_prompt_may_fill_the_context_less_what_the_reply_needs() -> None:
    reader = PromptReader(Opener())
    n = len(reader.read_raw(MODEL, RawPrompt(text="x y" * 200)).tokens)
    full = replace(MODEL, limits=Limits(context_tokens=n))

    assert len(reader.read_raw(full, RawPrompt(text="x y" * 200, n_reserved=0)).tokens) == n
    with pytest.raises(PromptTooLong, match=f"length is {n} tokens, but the_field has at least") as refused:
        reader.read_raw(full, RawPrompt(text="x y" * 200, field="the_field"))
    assert refused.value.field == "the_field"


@pytest.mark.parametrize("text", ["a " * 2_000_000, tuple([3] * 1001)])
def test_a_raw_prompt_that_is_too_long_is_refused_early(text: str | tuple[int, ...]) -> None:
    began = time.monotonic()
    with pytest.raises(PromptTooLong):
        PromptReader(Opener()).read_raw(MODEL, RawPrompt(text=text))
    assert time.monotonic() - began < 2


def test_a_tokenizer_that_fails_on_a_raw_prompt_refuses_it() -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise RuntimeError("secret detail")

    class Failing:
        is_fast = True
        __call__ = fail

        def get_vocab(self) -> dict[str, int]:
            return {"a": 0}

        def encode(self, *_: Any, **__: Any) -> list[int]:
            return []

    with pytest.raises(PromptRefused) as refused:
        PromptReader(Opener(Failing())).read_raw(MODEL, RawPrompt(text="a"))
    assert "secret" not in refused.value.message
    assert "secret detail" in refused.value.detail


def test_a_grammar_is_compiled_apart_from_its_prompt_and_is_known_from_then_on() -> None:
    reader = PromptReader(Opener())
    loose = Grammar("json_schema", '{"type": "array", "uniqueItems": true}', strict=False)
    strict = replace(loose, strict=True, field="guided_json")

    first = reader.read(MODEL, HI, PromptOptions(grammar=loose))
    constrained = reader.constrain(MODEL, first)
    again = reader.read(MODEL, HI, PromptOptions(grammar=loose))

    assert first.constraint is None
    assert constrained.constraint is not None
    assert constrained.constraint.grammar == loose
    assert again == constrained
    assert reader.read_raw(MODEL, RawPrompt(text="a", grammar=loose)).constraint is constrained.constraint
    assert [warning for warning in constrained.warnings if "uniqueItems" in warning]
    with pytest.raises(PromptRefused, match='keywords are not supported: "uniqueItems"') as refused:
        reader.constrain(MODEL, reader.read(MODEL, HI, PromptOptions(grammar=strict)))
    assert refused.value.field == "guided_json"


def test_a_tokenizer_can_be_opened_with_what_its_grammars_need() -> None:
    opener = Opener()
    reader = PromptReader(opener)

    reader.open(MODEL)
    reader.constrain(MODEL, reader.read(MODEL, HI, PromptOptions(grammar=Grammar("json_object"))))

    assert opener.opened == ["1"]
