"""Chat completions: messages, and the fields that are done, taken and refused."""

from __future__ import annotations

from collections.abc import Iterator

from scripts.reference.writing import fields, item, names, paragraph, values


def section() -> Iterator[str]:
    yield from ["## Chat completions", ""]
    yield from _messages()
    yield from _done()
    yield from _taken()
    yield from _refused()


def _messages() -> Iterator[str]:
    from server.api.openai import message_schema as schema

    yield from ["### Messages", ""]
    yield from item(f"`role`: {', '.join(schema.ROLES)}. A developer's message is a system prompt.")
    yield from item("`content`: text, null, or a list of parts, which become lines of their own")
    thinking = names((*schema.THINKING_PARTS, *schema.HIDDEN_PARTS))
    pictures = names(schema.IMAGE_PARTS)
    yield from item(
        f"types of parts: {names(schema.TEXT_PARTS)}; of an assistant also {thinking}; of the user and of results of "
        f"tools also {pictures}"
    )
    thoughts = names((*schema.THINKING_FIELDS, *schema.THINKING_LISTS))
    yield from item(f"what an assistant thought: the first of {thoughts} that has text")
    yield from item("`tool_calls`, `function_call`, `tool_call_id`, `name`: earlier calls of tools and their results")
    yield from item("any other field is ignored; a part of another type, such as audio, is a 400")
    yield from item(f"at most {schema.MAX_MESSAGES} messages")
    yield ""


def _done() -> Iterator[str]:
    from server.api.openai import chat_fields
    from server.api.openai.chat_schema import ChatCompletion

    yield from ["### Fields that are done", ""]
    yield from fields(ChatCompletion)
    for name, own in chat_fields.ALIASES.items():
        yield from item(f"`{name}`: the same as `{own}`")
    yield ""


def _taken() -> Iterator[str]:
    from server.api.openai import chat_fields

    yield from ["### Fields that are taken", ""]
    yield from item(f"with any value, and without an effect: {names(sorted(chat_fields.NOTED))}")
    yield from item(f"with a warning in the reply: {names(chat_fields.WARNINGS)}")
    yield from item("any field whose value asks for nothing: null, false, an empty text, list or object")
    yield ""


def _refused() -> Iterator[str]:
    from server.api.openai import chat_fields

    yield from ["### Fields that are refused", ""]
    yield from paragraph("A 400 names the field, unless its value is one given here or asks for nothing.")
    never = [name for name, neutral in chat_fields.NEUTRAL.items() if not neutral]
    yield from item(names([*never, *sorted(chat_fields.NEVER)]))
    for name, neutral in chat_fields.NEUTRAL.items():
        if neutral:
            yield from item(f"`{name}` other than {values(neutral)}")
    yield from item("any field that this page does not name")
    yield ""
