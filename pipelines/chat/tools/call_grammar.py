"""The grammar of a reply that must call a tool, or that may and else must have a form. Any thread; no torch.

Calls are in the model's own format, with arguments that match the tool's schema.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from pipelines.chat.grammar.lark import HEAD, BadGrammar, json_rule, lark_of
from pipelines.chat.tools.closed_schema import closed
from pipelines.chat.tools.formats import GENERIC, NAME, ModelCallFormat, Written
from pipelines.chat_interface import Grammar, PromptRefused, Tool, ToolUse

MAX_CALLS = 8  # in one reply that must call tools
FIELD = "tools"
NO_ARGUMENTS = {"type": "object", "properties": {}, "additionalProperties": False}
NO_OWN_GRAMMAR = "A grammar of one's own cannot be combined with tools. Send a JSON schema, or no tools."


def reply_grammar(
    tokenizer: Any, calls: ModelCallFormat | None, use: ToolUse, answer: Grammar | None
) -> Grammar | None:
    """Return the grammar that the reply must follow; None if it need not follow any.

    calls: how the model writes calls of the tools that it was shown; None: it was shown none. answer: the form of what
    is no call. Raises `PromptRefused`.
    """
    if calls is None or (use.choice != "required" and answer is None):
        return answer
    written = calls.family.written
    whole = written.answer is not None
    try:
        if use.choice == "required" or answer is None:
            return Grammar("lark", f"start: calls\n{_calls(tokenizer, calls, written)}", field=FIELD, whole=whole)
        if answer.kind == "lark":
            raise PromptRefused(NO_OWN_GRAMMAR, field=answer.field)
        if (written.before + written.call).startswith("{"):  # JSON without markup: so is the answer
            written = GENERIC.written
        rules = _calls(tokenizer, calls, written) + lark_of(answer).removeprefix(HEAD).replace("start:", "answer:", 1)
        before = _literal(written.answer or "", _special(tokenizer))
        return Grammar("lark", f"start: calls | {before} answer\n{rules}", field=answer.field, whole=whole)
    except BadGrammar as error:
        raise PromptRefused(f"{FIELD} {error}.", field=FIELD) from error


def _calls(tokenizer: Any, calls: ModelCallFormat, written: Written) -> str:
    """Return rules in Lark's form, of which `calls` is the whole reply."""
    special = _special(tokenizer)
    more = MAX_CALLS - 1 if calls.parallel and written.has_several else 0
    several = f" ({_literal(written.between, special)} call){{0,{more}}}" if more else ""
    rules = [f"calls: {_literal(written.before, special)} call{several} {_literal(written.after, special)}"]
    rules.append("call: " + " | ".join(f"call{i}" for i in range(len(calls.tools))))
    for i, tool in enumerate(calls.tools.values()):
        before = _literal(written.call.replace(NAME, tool.name), special)
        rules.append(f"call{i}: {before} arguments{i} {_literal(written.end, special)}")
        rules.append(f"arguments{i}: {json_rule(_schema(tool), lenient=True)}")
    return "\n".join(rules) + "\n"


def _special(tokenizer: Any) -> Mapping[str, int]:
    return {token.content: i for i, token in tokenizer.added_tokens_decoder.items() if token.special}


def _schema(tool: Tool) -> Mapping[str, Any]:
    if not tool.parameters:
        return NO_ARGUMENTS
    return closed(tool.parameters if "type" in tool.parameters else {**tool.parameters, "type": "object"})


def _literal(text: str, special: Mapping[str, int]) -> str:
    """Return the text in Lark's form, with special tokens by their numbers."""
    names = "|".join(map(re.escape, sorted(special, key=len, reverse=True)))
    parts = re.split(f"({names})", text) if names else [text]
    return " ".join(
        f"<[{special[part]}]>" if part in special else json.dumps(part, ensure_ascii=False) for part in parts if part
    )
