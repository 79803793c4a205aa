"""The forms in which messages can be handed to a chat template. Pure functions; any thread.

Templates differ in what they take: some know no system prompt, some want roles to alternate, some want content as a
list of parts, many show no tool calls. `forms` lists the ways to say the same, the plainest first.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise, product
from typing import Any, Literal, TypeAlias

from pipelines.chat.tools.generic_prompt import calls_as_text
from pipelines.chat.tools.json_text import json_object
from pipelines.chat_interface import Message, MessageImage, ToolCall

Tools: TypeAlias = Literal["native", "apart", "text"]
Systems: TypeAlias = Literal["as given", "first only", "none"]
Ids: TypeAlias = Literal["as given", "short", "named"]
Turn: TypeAlias = dict[str, Any]  # a message as a template reads it

ALL_IDS: Sequence[Ids] = ("as given", "short", "named")
SYSTEMS_MOVED = "System messages were put before the next message of the user"
BLANK_LINE = "\n\n"
SHORT_ID = re.compile("[a-zA-Z0-9]{9}")  # the only form that Mistral's templates take
PLAIN_ID = re.compile("(?=.*[0-9])[a-zA-Z0-9_.:-]{1,64}")  # without a digit it might be a special token


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    tools: Tools = "native"  # apart: each call, and the text beside it, in a message of its own
    systems: Systems = "as given"  # all other system prompts become a part of the next user's message
    merged: bool = False  # consecutive messages of one role are one
    parts: bool = False  # content is a list of parts, in any case that of messages with pictures
    arguments_as_text: bool = False  # arguments of calls are JSON instead of an object
    ids: Ids = "as given"  # of calls. short: nine letters or digits; named: as Kimi's models write them

    @property
    def warnings(self) -> tuple[str, ...]:
        """For the client: what a reader of the prompt would find changed."""
        because = ", because the model's chat template does not take the messages as they are."
        changes = {
            "Tool calls and their results were written out as text": self.tools == "text",
            "Each tool call, and the text beside it, was put into a message of its own": self.tools == "apart",
            "Later system messages were put before the next message of the user": self.systems == "first only",
            SYSTEMS_MOVED: self.systems == "none",
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
    either = (False, True)
    parts_first = (True, False) if any(message.images for message in messages) else either  # as processors do it
    tools: list[Tools] = ["native", "apart", "text"] if has_calls else ["native", "text"] if has_tools else ["native"]
    for tool, system, merged, parts in product(tools, systems, either, parts_first):
        details = has_calls and tool != "text"
        for as_text, ids in product(either if details else (False,), ALL_IDS if details else ALL_IDS[:1]):
            yield Form(tools=tool, systems=system, merged=merged, parts=parts, arguments_as_text=as_text, ids=ids)


def turns(messages: Sequence[Message], form: Form) -> list[Turn]:
    """Returns the messages as a template reads them in this form."""
    if form.tools == "text":
        messages = calls_as_text(messages)
    elif form.tools == "apart":
        messages = _calls_apart(messages)
    messages = _systems_folded(messages, form.systems)
    if form.merged:
        messages = _merged(messages)
    calls = [call for message in messages for call in message.tool_calls]
    ids = {call.id: f"functions.{call.name}:{i}" for i, call in enumerate(calls)} if form.ids == "named" else {}
    names = {call.id: call.name for call in calls}  # some templates ask for that of the tool, which few clients send
    return [
        _turn(replace(message, name=message.name or names.get(message.tool_call_id or "")), form, ids)
        for message in messages
    ]


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
    pending: list[Message] = []
    stays = systems == "first only"
    for message in messages:
        stays = stays and message.role == "system"
        if message.role == "system" and not stays:
            pending.append(message)
        elif pending and message.role == "user":
            content, images = _joined([*pending, message])
            found.append(replace(message, content=content, images=images))
            pending = []
        else:
            found += [_users(pending), message] if pending else [message]
            pending = []
    return [*found, *([_users(pending)] if pending else [])]


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
    content, images = _joined(group)
    return replace(
        group[-1],  # only this one may have calls
        content=content,
        images=images,
        thinking=BLANK_LINE.join(message.thinking for message in group if message.thinking.strip()),
        name=group[0].name if len({message.name for message in group}) == 1 else None,
    )


def _users(systems: Sequence[Message]) -> Message:
    content, _ = _joined(systems)
    return Message("user", content)


def _joined(messages: Sequence[Message]) -> tuple[str, tuple[MessageImage, ...]]:
    """Returns the contents as one, with a blank line between them, and their pictures by their places in it."""
    texts: list[str] = []
    images: list[MessageImage] = []
    n_before = 0
    for message in messages:
        if message.content.strip():
            if texts:
                n_before += len(BLANK_LINE)
            images += _moved(message.images, n_before)
            texts.append(message.content)
            n_before += len(message.content)
        else:
            images += (replace(image, at=n_before) for image in message.images)
    return BLANK_LINE.join(texts), tuple(images)


def _moved(images: Sequence[MessageImage], n_characters: int) -> tuple[MessageImage, ...]:
    return tuple(replace(image, at=image.at + n_characters) for image in images)


def _turn(message: Message, form: Form, ids: Mapping[str, str]) -> Turn:
    """ids: what stands for those of calls."""
    content: object = message.content
    if message.images:
        content = _parts(message)
    elif form.parts:
        content = [{"type": "text", "text": message.content}]
    turn: Turn = {"role": message.role, "content": content}
    if message.name:
        turn["name"] = message.name
    if message.thinking:
        turn["reasoning_content"] = message.thinking  # transformers passes it on as `thinking` too, for gpt-oss
    if message.tool_calls:
        turn["tool_calls"] = [_call(call, form, ids) for call in message.tool_calls]
    if message.tool_call_id is not None:
        turn["tool_call_id"] = ids.get(message.tool_call_id) or _id(message.tool_call_id, form)
    return turn


def _parts(message: Message) -> list[Turn]:
    parts: list[Turn] = []
    texts = _between_images(message)
    for i, text in enumerate(texts):
        parts += [{"type": "text", "text": text}] if text else []
        parts += [{"type": "image"}] if i < len(message.images) else []
    return parts


def _between_images(message: Message) -> list[str]:
    """Returns the pieces of the content before, between and behind its pictures."""
    places = [0, *(image.at for image in message.images), len(message.content)]
    return [message.content[begin:end] for begin, end in pairwise(places)]


def _call(call: ToolCall, form: Form, ids: Mapping[str, str]) -> Turn:
    arguments: object = call.arguments or "{}"
    if not form.arguments_as_text and (parsed := json_object(call.arguments or "{}")) is not None:
        arguments = parsed
    return {
        "id": ids.get(call.id) or _id(call.id, form),
        "type": "function",
        "function": {"name": call.name, "arguments": arguments},
    }


def _id(text: str, form: Form) -> str:
    """Returns an id that a template may show without showing what a client wrote."""
    if (SHORT_ID if form.ids == "short" else PLAIN_ID).fullmatch(text):
        return text
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:9]


def with_texts(messages: Sequence[Message], change: Callable[[str, int, bool], str]) -> list[Message]:
    """Returns the messages with every text that a client wrote replaced by `change(text, i, must_show)`.

    i: the index of the message. must_show: a template that does not show this text has dropped it. Blank texts stay.
    """

    def changed(text: str, i: int, must_show: bool = True) -> str:
        return change(text, i, must_show) if text.strip() else text

    def with_content(message: Message, i: int) -> Message:
        texts = [changed(text, i) for text in _between_images(message)]
        ends = accumulate(map(len, texts))
        images = tuple(replace(image, at=end) for image, end in zip(message.images, ends, strict=False))
        return replace(message, content="".join(texts), images=images)

    def with_call_texts(call: ToolCall, i: int) -> ToolCall:
        arguments = _with_argument_texts(call.arguments, lambda text: changed(text, i))
        return replace(call, name=changed(call.name, i), arguments=arguments)

    return [
        replace(
            with_content(message, i),
            thinking=changed(message.thinking, i, False),
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
