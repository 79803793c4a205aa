"""Finds out how a model writes calls of tools, from its chat template and its tokens. Any thread; no torch."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pipelines.chat.tools import call_syntax as syntax
from pipelines.chat.tools.call_reader import CallReader
from pipelines.chat.tools.call_syntax import Opening
from pipelines.chat_interface import Tool, ToolUse

NAME = "\ue000"  # stands for the tool's name in `Written`
SHORT_ID = re.compile("[a-zA-Z0-9]{9}")  # of Mistral's models


@dataclass(frozen=True, slots=True)
class Written:
    """How calls are written where the model must make some: the texts around JSON arguments."""

    before: str = ""
    call: str = '<tool_call>\n{"name": "' + NAME + '", "arguments": '
    end: str = "}\n</tool_call>"
    between: str = "\n"
    after: str = ""
    answer: str | None = None  # markup before an answer that is no call; None: the model's format writes all markup
    has_several: bool = True


@dataclass(frozen=True, slots=True)
class Family:
    """What a group of models has in common in how it writes calls."""

    name: str
    markers: Sequence[str]  # texts that all stand in the template, or in what the tokenizer declares
    openings: Sequence[Opening]
    written: Written = Written()  # immutable
    ends: Sequence[str] = ()  # special tokens that end a turn with calls, besides those that end all turns
    keeps_ids: bool = False  # the model writes ids that its template takes back


_OBJECT = '{"name": "' + NAME + '", "arguments": '
_LIST = Written(before="[", call=_OBJECT, end="}", between=", ", after="]")
_XML = Written(call=f"<tool_call>\n<function={NAME}>\n", end="\n</function>\n</tool_call>")
_FENCED = Written(
    before="<｜tool▁calls▁begin｜>",
    call=f"<｜tool▁call▁begin｜>function<｜tool▁sep｜>{NAME}\n```json\n",
    end="\n```<｜tool▁call▁end｜>",
    after="<｜tool▁calls▁end｜>",
)


def _in(before: str, written: Written, after: str) -> Written:
    return replace(written, before=before + written.before, after=written.after + after)


def _function(opening: str, close: str, function: str, end: str) -> Written:
    return Written(before=opening + "\n", call=f"{function}\n", end=f"\n{end}", after="\n" + close)


# More specific markers first: some templates also mention those of others.
FAMILIES: Sequence[Family] = (
    Family(
        "harmony",
        ("<|start|>", "<|channel|>", "<|message|>", "<|call|>"),
        syntax.HARMONY,
        Written(
            call=f"<|channel|>commentary to=functions.{NAME} <|constrain|>json<|message|>",
            end="<|call|>",
            answer="<|channel|>final<|message|>",
            has_several=False,  # each call ends the turn
        ),
        ends=("<|call|>",),
    ),
    Family(
        "kimi",
        ("<|tool_call_argument_begin|>",),
        syntax.KIMI,
        Written(
            before="<|tool_calls_section_begin|>",
            call=f"<|tool_call_begin|>functions.{NAME}:0<|tool_call_argument_begin|>",
            end="<|tool_call_end|>",
            between="",
            after="<|tool_calls_section_end|>",
        ),
    ),
    Family(
        "deepseek-v3.2",
        ("<｜DSML｜",),
        syntax.DEEPSEEK_V32,
        _function(
            "<｜DSML｜function_calls>",
            "</｜DSML｜function_calls>",
            f'<｜DSML｜invoke name="{NAME}">',
            "</｜DSML｜invoke>",
        ),
    ),
    Family("deepseek-v3", ("<｜tool▁sep｜>", "```json"), syntax.DEEPSEEK_V3, _FENCED),
    Family(
        "deepseek-v3.1",
        ("<｜tool▁sep｜>",),
        syntax.DEEPSEEK_V3,
        Written(
            before="<｜tool▁calls▁begin｜>",
            call=f"<｜tool▁call▁begin｜>{NAME}<｜tool▁sep｜>",
            end="<｜tool▁call▁end｜>",
            between="",
            after="<｜tool▁calls▁end｜>",
        ),
    ),
    Family(
        "function-gemma",
        ("<start_function_call>",),
        syntax.FUNCTION_GEMMA,
        Written(call=f"<start_function_call>call:{NAME}", end="<end_function_call>", between=""),
        ends=("<start_function_response>",),
    ),
    Family(
        "gemma-4",
        ("<|tool_call>", "<tool_call|>"),
        syntax.GEMMA4,
        Written(call=f"<|tool_call>call:{NAME}", end="<tool_call|>", between=""),
        ends=("<|tool_response>",),
    ),
    Family(
        "minimax",
        ("<minimax:tool_call>",),
        syntax.MINIMAX,
        _function("<minimax:tool_call>", "</minimax:tool_call>", f'<invoke name="{NAME}">', "</invoke>"),
    ),
    Family(
        "seed-oss",
        ("<seed:tool_call>",),
        syntax.SEED,
        _function("<seed:tool_call>", "</seed:tool_call>", f"<function={NAME}>", "</function>"),
    ),
    Family(
        "cohere",
        ("<|START_ACTION|>",),
        syntax.COHERE,
        Written(
            before="<|START_ACTION|>[",
            call='{"tool_call_id": "0", "tool_name": "' + NAME + '", "parameters": ',
            end="}",
            between=", ",
            after="]<|END_ACTION|>",
        ),
    ),
    Family(
        "mistral-v11",
        ("[TOOL_CALLS]", "[ARGS]"),
        syntax.MISTRAL,
        Written(call=f"[TOOL_CALLS]{NAME}[ARGS]", end="", between=""),
        keeps_ids=True,
    ),
    Family("mistral", ("[TOOL_CALLS]",), syntax.MISTRAL, _in("[TOOL_CALLS] ", _LIST, ""), keeps_ids=True),
    Family(
        "glm",
        ("<arg_key>", "<tool_call>"),
        syntax.HERMES,
        Written(call=f"<tool_call>{NAME}\n", end="\n</tool_call>"),
        ends=("<|observation|>",),
    ),
    Family("qwen-coder", ("<function=", "<parameter="), syntax.HERMES, _XML),
    Family("lfm2", ("<|tool_call_start|>",), (*syntax.LFM2, syntax.TOOL_CALL)),
    Family(
        "phi-4",
        ("<|tool_call|>", "<|/tool_call|>"),
        syntax.GRANITE,
        Written(call="<|tool_call|>" + _OBJECT, end="}<|/tool_call|>", between=""),
    ),
    Family("granite", ("<|tool_call|>",), syntax.GRANITE, _in("<|tool_call|>", _LIST, "")),
    Family("nemotron", ("<TOOLCALL>",), syntax.NEMOTRON, _in("<TOOLCALL>", _LIST, "</TOOLCALL>")),
    Family("hermes", ("<tool_call>",), syntax.HERMES),
    Family("jamba", ("<tool_calls>",), syntax.TOOL_CALLS, _in("<tool_calls>", _LIST, "</tool_calls>")),
    Family("olmo-3", ("<function_calls>",), (*syntax.OLMO, syntax.TOOL_CALL)),
    Family(
        "llama-4",
        ("<|python_start|>",),
        syntax.LLAMA4,
        Written(call='{"name": "' + NAME + '", "parameters": ', end="}", between="; "),
        ends=("<|eom|>",),
    ),
    Family(
        "pythonic",
        ("[func_name1(params_name1=params_value1",),
        (*syntax.PYTHONIC, syntax.TOOL_CALL),
    ),
    Family(
        "llama-3",
        ('"parameters": ', "name"),
        syntax.LLAMA3,
        Written(call='{"name": "' + NAME + '", "parameters": ', end="}", between="; "),
        ends=("<|eom_id|>",),
    ),
)
GENERIC = Family("generic", (), syntax.GENERIC)


@dataclass(frozen=True, slots=True)
class ModelCallFormat:
    """A `CallFormat`: how one model writes calls of the tools of one request."""

    family: Family
    tools: Mapping[str, Tool]
    parallel: bool = True
    required: bool = False
    end_tokens: frozenset[int] = field(default_factory=frozenset)  # that end a reply with calls

    def reader(self) -> CallReader:
        return CallReader(
            self.family.openings,
            self.tools,
            parallel=self.parallel,
            required=self.required,
            is_id=_is_id if self.family.keeps_ids else _never,
        )


def family_of(tokenizer: Any, template: str) -> Family:
    """Return how the model writes calls whose chat template shows tools.

    What the template and the tokenizer declare counts more than the tokens that the tokenizer has.
    """
    declared = [
        template,
        *(str(getattr(tokenizer, name, None) or "") for name in ("response_template", "response_schema")),
    ]
    added = [token.content for token in getattr(tokenizer, "added_tokens_decoder", {}).values()]
    for text in ("\n".join(declared), "\n".join(added)):
        for family in FAMILIES:
            if all(marker in text for marker in family.markers):
                return family
    return GENERIC


def generic_family(tokenizer: Any, template: str) -> Family:
    """Return the form that a model is told to write whose chat template shows no tools.

    What it was trained to write is read too.
    """
    own = [opening for opening in family_of(tokenizer, template).openings if opening not in GENERIC.openings]
    return replace(GENERIC, openings=(*GENERIC.openings, *own))


def call_format(tokenizer: Any, family: Family, use: ToolUse) -> ModelCallFormat:
    tools = [tool for tool in use.tools if use.name in (None, tool.name)]
    vocabulary = {token.content: i for i, token in getattr(tokenizer, "added_tokens_decoder", {}).items()}
    return ModelCallFormat(
        family,
        {tool.name: tool for tool in tools},
        use.parallel,
        use.choice == "required",
        frozenset(vocabulary[name] for name in family.ends if name in vocabulary),
    )


def _is_id(text: str) -> bool:
    return SHORT_ID.fullmatch(text) is not None


def _never(text: str) -> bool:
    return False
