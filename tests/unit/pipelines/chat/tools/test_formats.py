"""Which format a model writes calls in, by its chat template and its tokens."""

from __future__ import annotations

from typing import Any

import pytest

from pipelines.chat.tools.formats import FAMILIES, call_format, family_of
from pipelines.chat_interface import ToolUse
from tests.support.call_samples import NOW
from tests.support.paths import ROOT
from tests.support.section_samples import tokenizer

# The parts of real templates that show calls.
TEMPLATES = {
    "hermes": '<tool_call>\\n{\\"name\\": <function-name>, \\"arguments\\": <args-json-object>}\\n</tool_call>',
    "qwen-coder": "'\\n<tool_call>\\n<function=' + tool_call.name + '>\\n' '<parameter=' + args_name + '>\\n'",
    "glm": "<tool_call>{function-name}\n<arg_key>{arg-key-1}</arg_key>\n"
    "<arg_value>{arg-value-1}</arg_value>\n</tool_call>",
    "llama-3": 'Respond in the format {"name": function name, "parameters": dictionary}. '
    "'{\"name\": \"' + tool_call.name + '\", ' '\"parameters\": '",
    "llama-4": "'<|python_start|>' + content + '<|python_end|>' '\"parameters\": '",
    "pythonic": "[func_name1(params_name1=params_value1, params_name2=params_value2...), func_name2(params)]",
    "mistral": '"[TOOL_CALLS] [" tool_call.function|tojson ", \\"id\\": \\""',
    "mistral-v11": '"[TOOL_CALLS]" + name + "[ARGS]" + arguments',
    "function-gemma": "'<start_function_call>call:' + function['name'] + '{'",
    "gemma-4": "'<|tool_call>call:' + function['name'] + '{' '}<tool_call|>'",
    "harmony": "'<|start|>assistant to=functions.' + name + '<|channel|>commentary json<|message|>' '<|call|>'",
    "deepseek-v3": "'<｜tool▁call▁begin｜>' + tool['type'] + '<｜tool▁sep｜>' + name + '\\n' + '```json' + '\\n'",
    "deepseek-v3.1": "'<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>' + name + '<｜tool▁sep｜>' + arguments",
    "deepseek-v3.2": "<｜DSML｜function_calls><｜DSML｜invoke name=",
    "kimi": "<|tool_calls_section_begin|><|tool_call_begin|>{{ id }}<|tool_call_argument_begin|>{{ a }}",
    "minimax": "'<minimax:tool_call>' '<invoke name=\"' + tool_call.name + '\">\\n'",
    "seed-oss": "<seed:tool_call>\\n<function=example_function_name>\\n<parameter=example_parameter_1>",
    "cohere": '<|START_ACTION|>[ {"tool_call_id": "0", "tool_name": "{{ name }}", "parameters": {{ a }}} ]',
    "granite": "<|tool_call|> followed by a JSON list of tools used",
    "phi-4": '<|tool_call|>{\\"name\\": \\"foo\\", \\"arguments\\": {\\"a\\": 1}}<|/tool_call|>',
    "nemotron": "<TOOLCALL>[{{ name }}]</TOOLCALL>",
    "lfm2": "List of tools: <|tool_list_start|> <|tool_call_start|>",
    "olmo-3": "<function_calls>{{ calls }}</function_calls>",
    "jamba": "<tool_calls>[\\n </tool_calls>",
    "generic": "You have these tools: {{ tools | tojson }}",
}


@pytest.mark.parametrize(("name", "template"), TEMPLATES.items(), ids=TEMPLATES)
def test_the_template_tells_the_format(name: str, template: str) -> None:
    assert family_of(tokenizer(""), template).name == name


def test_the_tokens_tell_the_format_where_the_template_does_not() -> None:
    template = "You have these tools: {{ tools | tojson }}"

    assert family_of(tokenizer("", special=["<|tool_call|>"]), template).name == "granite"
    assert family_of(tokenizer("", plain=["<tool_call>", "</tool_call>"]), template).name == "hermes"


def test_a_declared_response_template_tells_the_format() -> None:
    declared = {"fields": {"tool_calls": {"open": "<TOOLCALL>", "close": "</TOOLCALL>", "content": "json"}}}

    assert family_of(tokenizer("", plain=["<tool_call>"], response_template=declared), "{{ tools }}").name == "nemotron"


@pytest.mark.parametrize(
    ("name", "end"), [("harmony", "<|call|>"), ("llama-3", "<|eom_id|>"), ("gemma-4", "<|tool_response>")]
)
def test_the_token_that_ends_a_turn_with_calls_ends_the_reply(name: str, end: str) -> None:
    made: Any = tokenizer("", special=[end])
    family = family_of(made, TEMPLATES[name])

    assert call_format(made, family, ToolUse(tools=(NOW,))).end_tokens == {made.convert_tokens_to_ids(end)}
    assert call_format(tokenizer(""), family, ToolUse(tools=(NOW,))).end_tokens == frozenset()


@pytest.mark.parametrize("name", [family.name for family in FAMILIES])
def test_the_documents_name_each_format(name: str) -> None:
    assert f"`{name}`" in (ROOT / "docs/tools.md").read_text()
