"""Anthropic's messages: their blocks, tools, and the fields that are done, taken and refused."""

from __future__ import annotations

from collections.abc import Iterator

from scripts.reference.writing import fields, item, names


def section() -> Iterator[str]:
    yield from ["## Messages", ""]
    yield from _messages()
    yield from _tools()
    yield from _fields()


def _messages() -> Iterator[str]:
    from server.api.anthropic import messages

    yield from item(f"`role`: {', '.join(messages.ROLES)}; at most {messages.MAX_MESSAGES} messages")
    yield from item("`content`: text, or a list of blocks; texts that follow each other become lines of their own")
    yield from item(f"blocks of a user: {names(messages.OF_USER)}")
    yield from item(f"blocks of an assistant: {names(messages.OF_ASSISTANT)}")
    yield from item(f"blocks of a result of a tool: {names(messages.IN_RESULT)}")
    yield from item(f"blocks of the system: `text`; within the messages also {names(messages.TOOL_CHANGES)}")
    yield from item(
        "a picture is PNG, JPEG, WebP or GIF in base64, an address if the server fetches them, or the id of a file "
        "that was sent to `POST /v1/files`"
    )
    yield from item(
        "a document is text, or a list of blocks of text and pictures; PDF files, addresses and uploaded files are a "
        "400, as are `citations`"
    )
    yield from item("`redacted_thinking` is skipped; a block of any other type is a 400 that names it")
    yield from item("`is_error` puts `Error:` before the result; `cache_control` and unknown fields are ignored")
    yield ""


def _tools() -> Iterator[str]:
    from server.api.anthropic import tools
    from server.api.shared.tool_fields import MAX_TOOLS, NAME_TEXT

    yield from ["### Tools", ""]
    yield from item(f"at most {MAX_TOOLS}, with a `name` of {NAME_TEXT}, a `description` and an `input_schema`")
    yield from item(f"`input_examples`, at most {tools.MAX_EXAMPLES}: shown to the model with the schema")
    yield from item(
        "`defer_loading`: the model does not see the tool before a `tool_reference` or `tool_addition` names it, or "
        "`tool_choice` does"
    )
    yield from item(
        "a tool of another `type` than `custom` is a 400: searches of the web, running of code and MCP servers are not "
        "done here, and `bash_…`, `text_editor_…`, `computer_…` and `memory_…` have to be described by a schema"
    )
    yield from item("`strict`, `eager_input_streaming` and `cache_control` are ignored")
    yield ""


def _fields() -> Iterator[str]:
    from server.api.anthropic.fields import RULES
    from server.api.anthropic.schema import CreateMessage

    yield from ["### Fields that are done", ""]
    yield from fields(CreateMessage)
    yield from ["", "### Fields that are taken", ""]
    yield from item(f"with any value, and without an effect: {names(sorted(RULES.noted))}")
    yield from item(f"with a warning in the reply: {names(RULES.warnings)}")
    yield from item("any field whose value asks for nothing: null, false, an empty text, list or object")
    yield from ["", "### Fields that are refused", ""]
    yield from item(f"{names([*RULES.neutral, 'thread'])}, and any field that this page does not name")
    yield ""
