"""The ways in which models write calls: what begins one in a reply, and who reads it. Any thread; no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.chat.tools.call_source import Reader, Source, Steps, accept, close, expect, skip_white
from pipelines.chat.tools.gemma_calls import gemma_call
from pipelines.chat.tools.json_calls import json_calls
from pipelines.chat.tools.named_calls import CALL as DEEPSEEK_CALL
from pipelines.chat.tools.named_calls import (
    KIMI_CALL,
    deepseek_calls,
    fenced_call,
    harmony_call,
    kimi_calls,
    mistral_calls,
)
from pipelines.chat.tools.python_calls import python_calls
from pipelines.chat.tools.tagged_calls import DEEPSEEK, FUNCTION, GLM, INVOKE, Markup, tagged_call


@dataclass(frozen=True, slots=True)
class Opening:
    """What begins a call."""

    text: str
    read: Reader  # from behind the text
    at_start: bool = False  # only where nothing but white space precedes: the same text elsewhere begins no call
    special: bool = False  # only in a special token, or in what a reader of sections passes on as one
    is_markup: bool = True  # else it is read with the call


def around(read: Reader, end: str) -> Reader:
    """Return a reader of what stands between markup. The reply may leave out the end of it."""

    def read_all(source: Source) -> Steps[None]:
        yield from skip_white(source)
        yield from read(source)
        yield from close(source, end)

    return read_all


def several(opening: str, markup: Markup) -> Reader:
    """Return a reader of calls with markup around each of them."""

    def read(source: Source) -> Steps[None]:
        yield from skip_white(source)
        yield from expect(source, opening)
        yield from tagged_call(source, markup)
        while True:
            yield from skip_white(source)
            if not (yield from accept(source, opening)):
                break
            yield from tagged_call(source, markup)
        source.unread()

    return read


def one(markup: Markup) -> Reader:
    return lambda source: tagged_call(source, markup)


def _in_tool_call(source: Source) -> Steps[None]:
    """Models of several families write <tool_call>, and each something else behind it."""
    first = yield from skip_white(source)
    if first in ("{", "["):
        yield from json_calls(source)
    elif first == "<":
        yield from several("<function=", FUNCTION)(source)
    else:
        yield from tagged_call(source, GLM)


def _alone(source: Source) -> Steps[None]:
    yield from json_calls(source, alone=True)


def _llama4(source: Source) -> Steps[None]:
    """Llama 4 writes Python between these tags, or JSON behind them."""
    yield from accept(source, "<|python_end|>")
    yield from skip_white(source)
    start = source.at
    yield from accept(source, "[")
    first = yield from skip_white(source)
    source.at = start
    yield from json_calls(source) if first == "{" else python_calls(source)
    yield from close(source, "<|python_end|>")


def _json_list(opening: str, end: str) -> Opening:
    return Opening(opening, around(json_calls, end))


TOOL_CALL = Opening("<tool_call>", around(_in_tool_call, "</tool_call>"))
FUNCTION_TAG = Opening("<function=", one(FUNCTION))
BARE_JSON = (
    Opening("{", _alone, at_start=True, is_markup=False),
    Opening("[{", _alone, at_start=True, is_markup=False),
)
FENCED_JSON = Opening("```json", fenced_call, at_start=True)
BARE_PYTHON = Opening("[", python_calls, at_start=True, is_markup=False)

GENERIC: Sequence[Opening] = (TOOL_CALL, *BARE_JSON, FENCED_JSON)
HERMES: Sequence[Opening] = (TOOL_CALL, FUNCTION_TAG)
LLAMA3: Sequence[Opening] = (Opening("<|python_tag|>", json_calls), *HERMES, *BARE_JSON)
PYTHONIC: Sequence[Opening] = (BARE_PYTHON,)
LLAMA4: Sequence[Opening] = (Opening("<|python_start|>", _llama4), TOOL_CALL, *BARE_JSON, BARE_PYTHON)
LFM2: Sequence[Opening] = (
    Opening("<|tool_call_start|>", around(python_calls, "<|tool_call_end|>")),
    BARE_PYTHON,
)
OLMO: Sequence[Opening] = (Opening("<function_calls>", around(python_calls, "</function_calls>")), BARE_PYTHON)
MISTRAL: Sequence[Opening] = (Opening("[TOOL_CALLS]", mistral_calls),)
FUNCTION_GEMMA: Sequence[Opening] = (Opening("<start_function_call>", around(gemma_call, "<end_function_call>")),)
GEMMA4: Sequence[Opening] = (Opening("<|tool_call>", around(gemma_call, "<tool_call|>")),)
HARMONY: Sequence[Opening] = (Opening("to=", harmony_call, special=True),)
DEEPSEEK_V3: Sequence[Opening] = (
    Opening("<｜tool▁calls▁begin｜>", deepseek_calls),
    Opening(DEEPSEEK_CALL, deepseek_calls),
)
DEEPSEEK_V32: Sequence[Opening] = (
    Opening(
        "<｜DSML｜function_calls>", around(several("<｜DSML｜invoke name=", DEEPSEEK), "</｜DSML｜function_calls>")
    ),
)
KIMI: Sequence[Opening] = (Opening("<|tool_calls_section_begin|>", kimi_calls), Opening(KIMI_CALL, kimi_calls))
MINIMAX: Sequence[Opening] = (
    Opening("<minimax:tool_call>", around(several("<invoke name=", INVOKE), "</minimax:tool_call>")),
)
SEED: Sequence[Opening] = (Opening("<seed:tool_call>", around(several("<function=", FUNCTION), "</seed:tool_call>")),)
COHERE: Sequence[Opening] = (_json_list("<|START_ACTION|>", "<|END_ACTION|>"),)
GRANITE: Sequence[Opening] = (_json_list("<|tool_call|>", "<|/tool_call|>"), TOOL_CALL)
NEMOTRON: Sequence[Opening] = (_json_list("<TOOLCALL>", "</TOOLCALL>"),)
TOOL_CALLS: Sequence[Opening] = (_json_list("<tool_calls>", "</tool_calls>"),)
