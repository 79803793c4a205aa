"""Completions: the fields that are done, and those that only chats have."""

from __future__ import annotations

from collections.abc import Iterator

from scripts.reference.writing import fields, item, names, paragraph


def section() -> Iterator[str]:
    from server.api.openai import completion_schema as schema

    yield from ["## Completions", ""]
    yield from ["### Fields that are done", ""]
    yield from fields(schema.Completion)
    for name, own in schema.RULES.aliases.items():
        yield from item(f"`{name}`: the same as `{own}`")
    yield ""
    yield from paragraph(
        "Other fields are taken and refused as those of chat completions are. `suffix` is refused, and so is what only "
        f"chats have: {names(schema.OF_CHATS)}."
    )
