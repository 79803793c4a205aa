"""Whole replies that must call a tool, of models that think or write markup around answers: tokens at random."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import jsonschema_rs
import numpy as np
import pytest
from tokenizers import AddedToken

from pipelines.chat.grammar.compiler import GrammarCompiler
from pipelines.chat.prompts.read_prompt import read_prompt
from pipelines.chat.sequence import ChatSequence, ChatTokenizer, begin
from pipelines.chat.tools.formats import ModelCallFormat
from pipelines.chat_interface import ChatRequest, Grammar, Message, Prompt, PromptOptions, Tool, ToolUse
from pipelines.interface import Replied
from tests.support.call_samples import NOW
from tests.support.chat_tokenizers import MISTRAL as MISTRAL_WITHOUT_TOOLS
from tests.support.chat_tokenizers import chat_tokenizer
from tests.support.tool_templates import HERMES, MISTRAL

CITY = {"type": "string", "maxLength": 8}
WEATHER = Tool("get_weather", "", {"type": "object", "properties": {"city": CITY}, "required": ["city"]})
TOOLS = {tool.name: tool for tool in (WEATHER, NOW)}
USE = ToolUse(tools=tuple(TOOLS.values()), choice="required")
ANSWER = Grammar("json_schema", '{"type": "object", "properties": {"x": {"type": "null"}}, "required": ["x"]}')
FAMILIES = {"harmony": "harmony", "qwen3": "hermes", "mistral": "mistral", "r1": "generic"}


class Model:
    """A model that chooses tokens at random, of those that a reply may have."""

    def __init__(self, family: str) -> None:
        self.tokenizer = chat_tokenizer(family)
        self.tokenizer.add_tokens([AddedToken("<|constrain|>", special=True)] * (family == "harmony"))
        with_tools = {"qwen3": HERMES, "mistral": MISTRAL}.get(family)
        self.tokenizer.chat_template = with_tools or self.tokenizer.chat_template
        config = SimpleNamespace(eos_token_id=self.tokenizer.eos_token_id)
        self._chat_tokenizer = ChatTokenizer(SimpleNamespace(generation_config=config), self.tokenizer)
        self._compiler = GrammarCompiler(self.tokenizer)
        self._liked = {self.tokenizer.convert_tokens_to_ids(each) for each in '"}'}

    def prompt(self, use: ToolUse, answer: Grammar | None = None) -> Prompt:
        prompt = read_prompt(self.tokenizer, [Message("user", "Hi")], PromptOptions(tool_use=use, grammar=answer))
        assert prompt.grammar is not None
        return replace(prompt, constraint=self._compiler.compile(prompt.grammar))

    def reply(self, prompt: Prompt, seed: int) -> Replied:
        request = ChatRequest(id="x", prompt=prompt, max_tokens=4_000, max_thinking_tokens=5)
        sequence = begin(request, self._chat_tokenizer, 8_192, 100_000)
        assert isinstance(sequence, ChatSequence)
        chance, words = random.Random(seed), np.zeros(len(self.tokenizer) // 32 + 1, np.uint32)
        while True:
            token = sequence.forced_token
            if token is None:
                sequence.write_mask(words)
                bits = np.unpackbits(words.view(np.uint8), bitorder="little")
                allowed = [int(each) for each in np.nonzero(bits)[0] if each < len(self.tokenizer)]
                liked = [each for each in allowed if each in self._liked or each in sequence.end_tokens]
                token = chance.choice(liked if liked and chance.random() < 0.4 else allowed)
            _, finish = sequence.append(token)
            if finish is not None:
                return sequence.replied(finish)


def check(end: Replied) -> None:
    assert end.finish_reason == "tool_calls"
    assert end.text == ""
    for call in end.tool_calls:
        jsonschema_rs.validate(TOOLS[call.name].parameters or {"maxProperties": 0}, json.loads(call.arguments))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_reply_thinks_freely_and_then_calls(family: str) -> None:
    model = Model(family)
    prompt = model.prompt(USE)
    assert isinstance(prompt.call_format, ModelCallFormat)
    assert prompt.call_format.family.name == FAMILIES[family]

    ends = [model.reply(prompt, seed) for seed in range(12)]

    for end in ends:
        check(end)
    assert {call.name for end in ends for call in end.tool_calls} == set(TOOLS)
    assert any(end.thinking for end in ends) == (family != "mistral")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_reply_that_may_call_answers_in_the_form_that_was_asked_for(family: str) -> None:
    model = Model(family)
    prompt = model.prompt(replace(USE, choice="auto"), ANSWER)

    ends = [model.reply(prompt, seed) for seed in range(12)]

    for end in ends:
        if end.tool_calls:
            check(end)
        else:
            assert end.finish_reason == "stop"
            assert json.loads(end.text)["x"] is None
    assert {bool(end.tool_calls) for end in ends} == {False, True}


def test_a_model_whose_template_shows_no_tools_calls_in_the_generic_form() -> None:
    model: Any = Model("mistral")
    model.tokenizer.chat_template = MISTRAL_WITHOUT_TOOLS
    prompt = model.prompt(USE)
    assert prompt.call_format.family.name == "generic"

    check(model.reply(prompt, 1))
