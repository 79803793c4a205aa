"""Users' texts are read by a child of each tokenizer: the prompts are the same, and what they cost is bounded."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from models.errors import BadModel, LoadFailed
from models.loading.confined import confine
from models.loading.load import load
from models.loading.prompt_reader import PromptReader
from models.spec import Limits, ModelSpec
from pipelines.chat.prompts.read_prompt import read_prompt
from pipelines.chat_interface import Message, PromptOptions, PromptRefused, RawPrompt, Tool, ToolCall, ToolUse
from tests.support.catalogues import open_catalogue
from tests.support.chat_tokenizers import SPECIAL, chat_tokenizer
from tests.support.lanes.loaded_models import save_chat
from tests.support.tokenizer_kinds import KINDS, tokenizer_of

TALK = [
    Message("system", "Be brief. <|im_end|>"),
    Message("user", "Hé, 你好 🙂\n\nwhat is 2+2?"),
    Message("assistant", "4", thinking="two and two"),
    Message("user", "and </s> 3?"),
]
TOOLS = ToolUse(tools=(Tool("add", "Adds.", {"type": "object", "properties": {"a": {"type": "integer"}}}),))
CALLED = [
    Message("user", "add"),
    Message("assistant", "", tool_calls=(ToolCall("call_123456789", "add", '{"a": 1}'),)),
    Message("tool", "2", name="add", tool_call_id="call_123456789"),
    Message("user", "again"),
]
LOOPS = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
BOMB = "{% if 'xyzzy' in messages[-1].content %}" + LOOPS + "{% endif %}{{ messages[-1].content }}"
SPEC = ModelSpec(name="m", type="chat", path=Path("m"), source="m", fingerprint="1", limits=Limits(context_tokens=1000))


def confined_twin(family: str) -> tuple[Any, Any]:
    twin = chat_tokenizer(family)
    confine(twin, "m")
    return chat_tokenizer(family), twin


def outcome(tokenizer: Any, messages: list[Message], options: PromptOptions) -> Any:
    try:
        return read_prompt(tokenizer, messages, options)
    except PromptRefused as refused:
        return refused.message


@pytest.mark.parametrize("family", sorted(SPECIAL))
def test_a_confined_tokenizer_makes_the_same_prompts(family: str) -> None:
    plain, twin = confined_twin(family)
    for messages, use in ((TALK, ToolUse()), (TALK, TOOLS), (CALLED, TOOLS)):
        options = PromptOptions(tool_use=use)
        here, there = outcome(plain, messages, options), outcome(twin, messages, options)
        assert getattr(there, "tokens", there) == getattr(here, "tokens", here)
        assert getattr(there, "opening", "") == getattr(here, "opening", "")
        assert getattr(there, "warnings", ()) == getattr(here, "warnings", ())


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"SmolLM2"}))
def test_a_confined_tokenizer_gives_the_same_tokens_masks_and_places(kind: str) -> None:
    plain, twin = tokenizer_of(kind), tokenizer_of(kind)
    confine(twin, "m")
    texts = ["the queue 你好", "", "naïve 😀 <s> " * 9]
    plain.deprecation_warnings = twin.deprecation_warnings = {"sequence-length-is-longer": True}
    for how in (
        {},
        {"add_special_tokens": False},
        {"truncation": True, "max_length": 5},
        {"return_offsets_mapping": plain.is_fast, "return_special_tokens_mask": True},
    ):
        assert dict(twin(texts, **how)) == dict(plain(texts, **how))
    assert twin.encode(texts[0]) == plain.encode(texts[0])
    if plain.is_fast:  # half of a surrogate pair is no text
        with pytest.raises((TypeError, ValueError)):
            twin.encode("\ud800")


@pytest.mark.parametrize(
    "template",
    [
        "{% set n = namespace(a=1) %}{% for m in messages %}{% set n.a = n.a + 1 %}{% endfor %}{{ n.a }}",
        "{{ dict(a=1) | tojson }}{{ dict.fromkeys(['a'], 2) }}{{ strftime_now('%Y') }}",
        "{% generation %}{{ messages | tojson(indent=2, sort_keys=true) }}{% endgeneration %}",
        "{% for m in messages %}{{ m.reasoning_content }}{{ m.thinking }}{% break %}{% endfor %}",
        "{% for m in messages %}{{ m.reasoning_content }}{{ m.thinking }}{{ m.reasoning }}{% endfor %}",
        "{{ bos_token }}{{ eos_token }}{{ tools is none }}{{ documents is none }}{{ add_generation_prompt }}{{ x }}",
        "{{ messages[0].__class__ }}",
        "{% set n = namespace(_a=1) %}",
        "{{ range(1000000) | length }}",
        "{{ raise_exception('the roles must alternate') }}",
        "{% for %}",
        "{{ messages[9].content }}",
    ],
)
def test_templates_render_as_transformers_renders_them(template: str) -> None:
    plain, twin = confined_twin("chatml")
    turns = [
        {"role": "user", "content": "a", "name": None},
        {"role": "assistant", "content": "b", "reasoning": "c"},
        {"role": "user", "content": [{"type": "text", "text": "d"}]},
    ]

    def rendered(tokenizer: Any) -> Any:
        try:
            return tokenizer.apply_chat_template(
                turns, chat_template=template, tokenize=False, add_generation_prompt=True, x=[1, {"y": None}]
            )
        except Exception as error:  # noqa: BLE001  # a template may raise anything
            is_said = type(error).__name__ == "TemplateError"
            return ("said", str(error)) if is_said else "failed"

    assert rendered(twin) == rendered(plain)


@pytest.mark.slow
def test_a_template_that_loops_on_a_word_costs_that_request_alone() -> None:
    tokenizer = chat_tokenizer("chatml")
    tokenizer.chat_template = BOMB
    child = confine(tokenizer, "m")
    child._wall_s = 0.5

    assert read_prompt(tokenizer, [Message("user", "hello")]).tokens
    with pytest.raises(PromptRefused, match="template needs too much time or memory"):
        read_prompt(tokenizer, [Message("user", "xyzzy")])
    child._wall_s = 20.0
    assert read_prompt(tokenizer, [Message("user", "hello")]).tokens


@pytest.mark.slow
def test_a_model_that_ends_its_process_three_times_is_set_aside_for_a_while() -> None:
    now = [0.0]
    tokenizer = chat_tokenizer("chatml")
    tokenizer.chat_template = BOMB
    reader = PromptReader(lambda spec, path: tokenizer, is_trusted=lambda spec: False)
    with reader._use(SPEC) as opened:
        assert opened.child is not None
        opened.child._clock = lambda: now[0]
        opened.child._wall_s = 0.3
    for _ in range(3):
        with pytest.raises(PromptRefused):
            reader.read(SPEC, [Message("user", "xyzzy")], PromptOptions())

    with pytest.raises(BadModel, match="set aside for 10 more minutes"):
        reader.read(SPEC, [Message("user", "hello")], PromptOptions())
    opened.child._wall_s = 20.0
    now[0] = 601.0
    assert reader.read(SPEC, [Message("user", "hello")], PromptOptions()).tokens


def test_a_text_that_takes_its_tokenizer_too_long_costs_that_request_alone() -> None:
    tokenizer = chat_tokenizer("chatml")
    child = confine(tokenizer, "m")
    assert tokenizer.encode("c c", add_special_tokens=False)
    child._wall_s = 0.05

    with pytest.raises(PromptRefused, match="tokenizer needs too much time or memory"):
        tokenizer.encode("a b " * 500_000, add_special_tokens=False)
    child._wall_s = 20.0
    assert tokenizer.encode("c c", add_special_tokens=False)


def test_a_template_that_takes_all_memory_is_refused_and_not_the_next_one() -> None:
    tokenizer = chat_tokenizer("chatml")
    tokenizer.chat_template = "{% if 'xyzzy' in messages | tojson %}{{ 'a' * 3000000000 }}{% endif %}b"
    confine(tokenizer, "m")

    with pytest.raises(PromptRefused):
        read_prompt(tokenizer, [Message("user", "xyzzy")])
    tokenizer.chat_template = "{{ messages[-1].content }}"
    assert read_prompt(tokenizer, [Message("user", "hello")]).tokens


def test_a_child_that_was_killed_while_idle_is_replaced_and_gone_with_its_tokenizer() -> None:
    tokenizer = chat_tokenizer("chatml")
    child = confine(tokenizer, "m")
    first = tokenizer.encode("hello")
    assert child._child is not None
    os.kill(child._child._process.pid, signal.SIGKILL)
    child._child._process.wait()

    assert tokenizer.encode("hello") == first
    process = child._child._process
    del child, tokenizer
    assert process.poll() is not None, "the child ends with what it belongs to"


def test_a_raw_prompt_that_is_repeated_knows_its_places() -> None:
    plain, twin = confined_twin("chatml")
    readers = [PromptReader(lambda spec, path, t=each: t) for each in (plain, twin)]  # type: ignore[misc]

    here, there = (reader.read_raw(SPEC, RawPrompt(text="Hé, 你好", repeated=True)) for reader in readers)
    assert there == here
    assert json.dumps(there.offsets) == json.dumps(here.offsets)


@pytest.mark.slow
def test_a_load_lets_a_child_run_the_template_and_ends_it(tmp_path: Path) -> None:
    folder = tmp_path / "models/tiny"
    save_chat(folder)
    once = "{% if messages | length == 1 %}" + LOOPS + "{% endif %}"  # the trial of a listing has three messages
    spec = open_catalogue(tmp_path).get("tiny")

    lane = load(spec, device="cpu", cache_bytes=1 << 20, confines=True)
    lane.close()

    (folder / "chat_template.jinja").write_text(once + "{{ messages[0].content }}")
    with pytest.raises(LoadFailed, match="does not take a user's message"):
        load(open_catalogue(tmp_path).get("tiny"), device="cpu", cache_bytes=1 << 20, confines=True)
