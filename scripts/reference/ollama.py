"""Ollama's API: its routes, and the fields of chats, texts and embeddings that are done, taken and refused."""

from __future__ import annotations

from collections.abc import Iterator

from scripts.reference.writing import fields, item, names, paragraph


def section() -> Iterator[str]:
    yield from _routes()
    yield from _talk()
    yield from _options()
    yield from _embed()


def _routes() -> Iterator[str]:
    from scripts.make_api_reference import document
    from server.api.deps import OLLAMA_PATHS

    yield from ["## Routes", ""]
    for path, operations in document()["paths"].items():
        for method, operation in operations.items():
            if path in OLLAMA_PATHS and operation.get("tags") == ["Ollama"]:
                summary = operation["description"].split("\n\n")[0]
                yield from item(f"**`{method.upper()} {path}`** {' '.join(summary.split())}")
    yield from item("**`POST /api/chat`** with `messages`. A body with a `message` is this server's own.")
    yield from item("**`POST /api/generate`** with a `model` and without `type`. A body with a `type` is a job.")
    yield ""


def _talk() -> Iterator[str]:
    from server.api.ollama import messages, schema

    yield from ["## Chats and texts", ""]
    yield from item(f"messages: {names(messages.ROLES)}, with `content`, which is text, and `images` in base64")
    yield from item("of an assistant also `thinking` and `tool_calls`, whose arguments are an object")
    yield from item(
        "of a tool `tool_name` and `tool_call_id`; without an id a result answers the first call of its name that has "
        "none yet, without a name the first call of all"
    )
    both = schema.TalkFields.model_fields
    yield from ["", "### Fields of both", ""]
    yield from fields(schema.TalkFields)
    for heading, model in {"a chat": schema.OllamaChat, "a text": schema.OllamaGenerate}.items():
        yield from ["", f"### Fields of {heading}", ""]
        yield from fields(model, leave_out=both)
    yield from ["", "### Other fields", ""]
    yield from item(f"taken with any value, and without an effect: {names(sorted(schema.RULES.noted))}")
    yield from item(
        f"refused, unless they ask for nothing: {names(schema.RULES.neutral)}, and any that is not named here"
    )
    yield ""


def _options() -> Iterator[str]:
    from server.api.ollama import options

    yield from ["### Options", ""]
    yield from item(f"done: {names([*options.DONE, options.NO_LIMIT])}")
    yield from item(f"taken without an effect: {names(sorted(options.LOADING))}")
    yield from item(f"taken with a warning in the reply: {names(options.WARNINGS)}, and any that is not named here")
    yield ""


def _embed() -> Iterator[str]:
    from server.api.ollama.embed import EmbedFields, OllamaEmbed

    yield from ["## Embeddings", "", "Fields of `/api/embed`:", ""]
    yield from fields(OllamaEmbed)
    yield ""
    others = {name for name in EmbedFields.model_fields if name != "model"}
    yield from paragraph(f"`/api/embeddings` takes one `prompt` with `model`, {names(sorted(others))}.")
