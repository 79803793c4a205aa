"""Makes the fake engine reply as a model would that does all it is asked for: it calls tools and keeps to schemas."""

from __future__ import annotations

import json
from collections.abc import Sequence

from pipelines.chat_interface import ChatRequest, Grammar, Message, PromptOptions, Tool, ToolCall, ToolUse
from tests.fakes import FakeReply
from tests.support.http.front import Front
from tests.support.http.sample_json import sample


def oblige(f: Front, json_object: object = None) -> None:
    """From now on replies are, by what the last prompt was made from:

    - a call of the first offered tool that the conversation has not called yet, with a sample of its arguments; if a
      call is required and there is none left, of the last tool;
    - otherwise, if the answer must have a form, a sample of the schema, or `json_object`;
    - otherwise text about the last message. A raw prompt goes on with " and on".
    """

    def reply(request: ChatRequest) -> FakeReply:
        if request.prompt.raw:
            return FakeReply(" and on")
        return _reply(f.prompt_reader.messages[-1], f.prompt_reader.options[-1], json_object)

    f.engine.reply = reply


def _reply(messages: Sequence[Message], options: PromptOptions, json_object: object) -> FakeReply:
    if (tool := _next_tool(messages, options.tool_use)) is not None:
        n_calls = sum(len(message.tool_calls) for message in messages)
        return FakeReply("", calls=(ToolCall(f"call_{n_calls + 1}", tool.name, json.dumps(sample(tool.parameters))),))
    if options.grammar is not None:
        return FakeReply(_in_form(options.grammar, json_object))
    last = messages[-1]
    said = f"The tool says: {last.content}" if last.role == "tool" else f"You said: {last.content}"
    return FakeReply(said)


def _next_tool(messages: Sequence[Message], use: ToolUse) -> Tool | None:
    if use.choice == "none" or not use.tools:
        return None
    if use.name is not None:
        return next(tool for tool in use.tools if tool.name == use.name)
    called = {call.name for message in messages for call in message.tool_calls}
    left = [tool for tool in use.tools if tool.name not in called]
    return left[0] if left else use.tools[-1] if use.choice == "required" else None


def _in_form(grammar: Grammar, json_object: object) -> str:
    match grammar.kind:
        case "json_schema":
            return json.dumps(sample(json.loads(grammar.text)), ensure_ascii=False)
        case "choice":
            return str(json.loads(grammar.text)[0])
        case _:
            return json.dumps({} if json_object is None else json_object, ensure_ascii=False)
