"""Responses: items of the input, tools, and the fields that are done, taken and refused."""

from __future__ import annotations

from collections.abc import Iterator

from scripts.reference.writing import fields, item, names, paragraph, values


def section() -> Iterator[str]:
    yield from ["## Responses", ""]
    yield from _items()
    yield from _done()
    yield from _others()


def _items() -> Iterator[str]:
    from server.api.openai.message_schema import IMAGE_PARTS, TEXT_PARTS
    from server.api.openai.responses import items

    yield from ["### Items of the input", ""]
    yield from item(f"`input`: {items.INPUT} of the types {names(items.READERS)}; without a type, a message")
    yield from item(f"`role` of a message: {', '.join(items.ROLES)}. A developer's message is a system prompt.")
    yield from item(
        f"types of parts: {names(TEXT_PARTS)}; of the user and in outputs of calls also {names(IMAGE_PARTS)}"
    )
    yield from item("an assistant's thoughts, text and calls in a row are one message to the model")
    yield from item(
        "any other field of an item is ignored, its `id` and `status` too; an item of another type is a 400"
    )
    yield ""


def _done() -> Iterator[str]:
    from server.api.openai.responses.schema import ResponseBody

    yield from ["### Fields of a response that are done", ""]
    yield from fields(ResponseBody)
    yield ""


def _others() -> Iterator[str]:
    from server.api.openai.responses.fields import RESPONSES

    yield from ["### Fields of a response that are taken or refused", ""]
    yield from item(f"taken with any value, and without an effect: {names(sorted(RESPONSES.noted))}")
    yield from item("taken: any field whose value asks for nothing: null, false, an empty text, list or object")
    yield from item(f"refused: {names(name for name, neutral in RESPONSES.neutral.items() if not neutral)}")
    for name, neutral in RESPONSES.neutral.items():
        if neutral:
            yield from item(f"refused: `{name}` other than {values(neutral)}")
    yield from item("refused: tools that a server would have to run, such as `file_search`, `mcp`, `code_interpreter`")
    yield from item("refused: `text.verbosity` other than `medium`, and any field that this page does not name")
    yield ""
    yield from paragraph("A refusal is a 400 that names the field.")
