"""The forms in which messages can be handed to a chat template. Pure functions; any thread.

Templates differ in what they take: some know no system prompt, some want roles to alternate, some want content as a
list of parts, many show no tool calls. `forms` lists the ways to say the same, the plainest first.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Literal, TypeAlias

from pipelines.chat_interface import Message, ToolCall

Tools: TypeAlias = Literal["native", "apart", "text"]
Systems: TypeAlias = Literal["as given", "first only", "none"]
Turn: TypeAlias = dict[str, Any]  # a message as a template reads it

BLANK_LINE = "\n\n"
SHORT_ID = re.compile("[a-zA-Z0-9]{9}")  # the only form that Mistral's templates take
PLAIN_ID = re.compile("(?=.*[0-9])[a-zA-Z0-9_.:-]{1,64}")  # without a digit it might be a special token


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    tools: Tools = "native"  # apart: each call, and the text beside it, in a message of its own
    systems: Systems = "as given"  # all other system prompts become a part of the next user's message
    merged: bool = False  # consecutive messages of one role are one
    parts: bool = False  # content is a list of parts
    arguments_as_text: bool = False  # arguments of calls are JSON instead of an object
    short_ids: bool = False  # ids of calls have nine letters or digits

    @property
    def warnings(self) -> tuple[str, ...]:
        """For the client: what a reader of the prompt would find changed."""
        because = ", because the model's chat template does not take the messages as they are."
        changes = {
            "Tool calls and their results were written out as text": self.tools == "text",
            "Each tool call, and the text beside it, was put into a message of its own": self.tools == "apart",
            "Later system messages were put before the next message of the user": self.systems == "first only",
            "System messages were put before the next message of the user": self.systems == "none",
            "Consecutive messages of one role were joined": self.merged,
        }
        return tuple(change + because for change, is_made in changes.items() if is_made)


def forms(messages: Sequence[Message]) -> Iterator[Form]:
    """Yields the forms that differ for these messages, from the least changed to the most."""
    has_calls = any(message.tool_calls for message in messages)
    has_tools = has_calls or any(message.role == "tool" for message in messages)
    n_leading = next((i for i, message in enumerate(messages) if message.role != "system"), len(messages))
    systems: list[Systems] = ["as given"]
    if any(message.role == "system" for message in messages[n_leading:]):
        systems.append("first only")
    if n_leading:
        systems.append("none")
    tools: list[Tools] = ["native", "apart", "text"] if has_calls else ["native", "text"] if has_tools else ["native"]
    either = (False, True)
    for tool, system, merged, parts in product(tools, systems, either, either):
        details = either if has_calls and tool != "text" else (False,)
        for as_text, short in product(details, details):
            yield Form(
                tools=tool, systems=system, merged=merged, parts=parts, arguments_as_text=as_text, short_ids=short
            )


def turns(messages: Sequence[Message], form: Form) -> list[Turn]:
    """Returns the messages as a template reads them in this form."""
    if form.tools == "text":
        messages = _tools_as_text(messages)
    elif form.tools == "apart":
        messages = _calls_apart(messages)
    messages = _systems_folded(messages, form.systems)
    if form.merged:
        messages = _merged(messages)
    return [_turn(message, form) for message in messages]


def _tools_as_text(messages: Sequence[Message]) -> list[Message]:
    names = {call.id: call.name for message in messages for call in message.tool_calls}
    found: list[Message] = []
    for message in messages:
        if message.role == "tool":
            name = message.name or names.get(message.tool_call_id or "")
            result = f"Result of {name}: {message.content}" if name else f"Result: {message.content}"
            found.append(Message("user", result))
        elif message.tool_calls:
            calls = [f"Called {call.name} with {call.arguments or '{}'}" for call in message.tool_calls]
            text = "\n".join([*([message.content] if message.content.strip() else []), *calls])
            found.append(replace(message, content=text, tool_calls=()))
        else:
            found.append(message)
    return found


def _calls_apart(messages: Sequence[Message]) -> list[Message]:
    """Puts each call into a message of its own, before its result."""
    found: list[Message] = []
    waiting: dict[str, Message] = {}  # calls whose result has not come yet, by their id
    for message in messages:
        if message.role == "tool":
            if (call := waiting.pop(message.tool_call_id or "", None)) is not None:
                found.append(call)
        else:
            found += waiting.values()
            waiting = {}
        if not message.tool_calls:
            found.append(message)
            continue
        if message.content.strip():
            found.append(replace(message, thinking="", tool_calls=()))
        for i, each in enumerate(message.tool_calls):
            key = each.id if each.id not in waiting else f"{each.id} {i}"
            thinking = "" if i else message.thinking
            waiting[key] = replace(message, content="", thinking=thinking, tool_calls=(each,))
    return [*found, *waiting.values()]


def _systems_folded(messages: Sequence[Message], systems: Systems) -> Sequence[Message]:
    if systems == "as given":
        return messages
    found: list[Message] = []
    pending: list[str] = []
    stays = systems == "first only"
    for message in messages:
        stays = stays and message.role == "system"
        if message.role == "system" and not stays:
            pending.append(message.content)
        elif pending and message.role == "user":
            found.append(replace(message, content=_joined([*pending, message.content])))
            pending = []
        else:
            found += [Message("user", _joined(pending)), message] if pending else [message]
            pending = []
    return [*found, *([Message("user", _joined(pending))] if pending else [])]


def _merged(messages: Sequence[Message]) -> list[Message]:
    groups: list[list[Message]] = []
    for message in messages:
        last = groups[-1][-1] if groups else None
        if last is not None and last.role == message.role != "tool" and not last.tool_calls:
            groups[-1].append(message)
        else:
            groups.append([message])
    return [group[0] if len(group) == 1 else _one_of(group) for group in groups]


def _one_of(group: Sequence[Message]) -> Message:
    return replace(
        group[-1],  # only this one may have calls
        content=_joined([message.content for message in group]),
        thinking=_joined([message.thinking for message in group]),
        name=group[0].name if len({message.name for message in group}) == 1 else None,
    )


def _joined(texts: Sequence[str]) -> str:
    return BLANK_LINE.join(text for text in texts if text.strip())


def _turn(message: Message, form: Form) -> Turn:
    content: object = [{"type": "text", "text": message.content}] if form.parts else message.content
    turn: Turn = {"role": message.role, "content": content}
    if message.name:
        turn["name"] = message.name
    if message.thinking:
        turn["reasoning_content"] = message.thinking  # transformers passes it on as `thinking` too, for gpt-oss
    if message.tool_calls:
        turn["tool_calls"] = [_call(call, form) for call in message.tool_calls]
    if message.tool_call_id is not None:
        turn["tool_call_id"] = _id(message.tool_call_id, form)
    return turn


def _call(call: ToolCall, form: Form) -> Turn:
    arguments: object = call.arguments or "{}"
    if not form.arguments_as_text and (parsed := json_object(call.arguments or "{}")) is not None:
        arguments = parsed
    return {
        "id": _id(call.id, form),
        "type": "function",
        "function": {"name": call.name, "arguments": arguments},
    }


def _id(text: str, form: Form) -> str:
    """Returns an id that a template may show without showing what a client wrote."""
    if (SHORT_ID if form.short_ids else PLAIN_ID).fullmatch(text):
        return text
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:9]


def json_object(text: str) -> dict[str, Any] | None:
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return parsed if isinstance(parsed, dict) else None


def with_texts(messages: Sequence[Message], change: Callable[[str, int, bool], str]) -> list[Message]:
    """Returns the messages with every text that a client wrote replaced by `change(text, i, must_show)`.

    i: the index of the message. must_show: a template that does not show this text has dropped it. Blank texts stay.
    """

    def changed(text: str, i: int, must_show: bool = True) -> str:
        return change(text, i, must_show) if text.strip() else text

    def with_call_texts(call: ToolCall, i: int) -> ToolCall:
        arguments = _with_argument_texts(call.arguments, lambda text: changed(text, i))
        return replace(call, name=changed(call.name, i), arguments=arguments)

    return [
        replace(
            message,
            thinking=changed(message.thinking, i, False),
            content=changed(message.content, i),
            name=None if message.name is None else changed(message.name, i, False),
            tool_calls=tuple(with_call_texts(call, i) for call in message.tool_calls),
        )
        for i, message in enumerate(messages)
    ]


def _with_argument_texts(arguments: str, change: Callable[[str], str]) -> str:
    parsed = json_object(arguments)

    def changed(value: Any) -> Any:
        if isinstance(value, dict):
            return {change(key): changed(each) for key, each in value.items()}
        if isinstance(value, list):
            return [changed(each) for each in value]
        return change(value) if isinstance(value, str) else value

    try:
        return change(arguments) if parsed is None else json.dumps(changed(parsed), ensure_ascii=False)
    except RecursionError:
        return change(arguments)
