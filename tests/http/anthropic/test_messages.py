"""POST /v1/messages: what of a body reaches the model, and what is refused."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from pipelines.chat_interface import Grammar, Message, ToolCall
from tests.fakes import FakeReply
from tests.support.http.anthropic_messages import ask, body, messages_read, refusal, text
from tests.support.http.chats import chat_request
from tests.support.http.front import front

pytestmark = pytest.mark.anyio

RECORDED = Path(__file__).parent / "recorded"
PNG = base64.b64encode(b"\x89PNG\r\n\x1a\nrest").decode()
FORM = {"type": "json_schema", "schema": {"type": "object"}}
WEATHER = {"name": "weather", "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}}}

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"model": "talker", "messages": body()["messages"]}, "max_tokens is required"),
    (body(max_tokens=0), "max_tokens must be a whole number"),
    ({"max_tokens": 9, "messages": body()["messages"]}, "model is required"),
    (body(messages=[]), "messages must be a list"),
    (body({"role": "tool", "content": "x"}), "messages[0].role must be one of user, assistant, system"),
    (body({"role": "user"}), "messages[0].content must be text or a list"),
    (body([5]), "messages[0].content[0] must be an object"),
    (body([{"type": "text"}]), "messages[0].content[0].text must be text"),
    (body("a\0b"), "messages[0].content must be text without NUL"),
    (body([{"type": "web_search_tool_result", "content": []}]), "a block of the type web_search_tool_result is not"),
    (body([{"type": "container_upload", "file_id": "f"}]), "a block of the type container_upload is not"),
    (body("Hi", {"role": "assistant", "content": [{"type": "server_tool_use"}]}), "messages[1].content[0]: a block of"),
    (body([{"type": "document", "source": {"type": "base64", "media_type": "application/pdf"}}]), "PDF documents"),
    (body([{"type": "document", "source": {"type": "url", "url": "https://x"}}]), "must be text or content"),
    (body([{"type": "document", "source": {"type": "file", "file_id": "f"}}]), "must be text or content"),
    (
        body([{"type": "document", "source": {"type": "text", "data": "x"}, "citations": {"enabled": True}}]),
        "messages[0].content[0].citations: citations are not made here",
    ),
    (body([{"type": "image", "source": {"type": "file", "file_id": "f"}}]), "source.file_id must be the id of"),
    (body([{"type": "image", "source": {"type": "s3"}}]), "source.type must be base64, url or file"),
    (body([{"type": "image", "source": {"type": "base64", "data": "eA=="}}]), "source.data must be a PNG"),
    (body([{"type": "tool_result", "content": "x"}]), "messages[0].content[0].tool_use_id must be text"),
    (
        body("Hi", {"role": "assistant", "content": [{"type": "tool_use", "id": "a", "name": "f", "input": "{}"}]}),
        "messages[1].content[0].input must be an object",
    ),
    (body(system=[{"type": "image"}]), "system[0].type must be one of text"),
    (body("Hi", {"role": "system", "output_config": {"effort": "low"}}), "messages[1].output_config must be left out"),
    (
        body("Hi", {"role": "system", "content": [{"type": "tool_addition", "tool": {"type": "tool_definition"}}]}),
        "messages[1].content[0].tool must be an object like",
    ),
    (body(thread={"type": "create"}), "thread is not supported"),
    (body(temperature=1.5), "temperature must be a number from 0 to 1"),
    (body(stop_sequences="x"), "stop_sequences must be a list"),
    (body(thinking={"type": "between_tools"}), "thinking must be an object like"),
    (body(tools=[{"type": "web_search_20250305", "name": "web_search"}]), "a tool of the type web_search_20250305 is"),
    (body(tools=[{"type": "bash_20250124", "name": "bash"}]), "Describe it by a name and an input_schema"),
    (body(tools=[{"name": "x"}]), "tools[0].input_schema must be a JSON schema"),
    (body(tools=[{"name": "x", "input_schema": {"type": "array"}}]), "tools[0].input_schema must be a JSON schema"),
    (body(tools=[WEATHER, WEATHER]), "tools[1].name must be another name"),
    (body(tools=[{**WEATHER, "allowed_callers": ["code_execution_20250825"]}]), "tools[0].allowed_callers"),
    (body(tools=[WEATHER], tool_choice={"type": "tool"}), "tool_choice must name one of the tools"),
    (body(tools=[WEATHER], tool_choice={"type": "tool", "name": "other"}), "tool_choice must name one of the tools"),
    (body(tools=[WEATHER], tool_choice={"type": "most"}), "tool_choice must be an object like"),
    (body(tool_choice={"type": "any"}), "at least one tool must be given"),
    (body(mcp_servers=[{"type": "url", "url": "https://x", "name": "x"}]), "mcp_servers is not supported"),
    (body(container="c"), "container is not supported"),
    (body(output_config={"format": {"type": "json_object"}}), "output_config must be an object like"),
    (
        body(output_format=FORM, output_config={"format": FORM}),
        "exclude each other",
    ),
    (
        body(output_format={"type": "json_schema", "schema": {"title": "a\0"}}),
        "output_format.schema must be a JSON schema of text without NUL",
    ),
    (body(max_token=5), "Unknown field max_token"),
]  # fmt: skip


async def test_text_system_and_cache_marks_reach_the_model_as_plain_messages(tmp_path: Path) -> None:
    mark = {"cache_control": {"type": "ephemeral"}}
    sent = body([text("One", **mark), text("Two")], system=[text("Be brief.", **mark), text("Be kind.")])

    assert await messages_read(tmp_path, sent) == [
        Message("system", "Be brief.\nBe kind."),
        Message("user", "One\nTwo"),
    ]


async def test_a_conversation_with_tools_becomes_one_message_for_each_result(tmp_path: Path) -> None:
    call = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Rome"}, "caller": None}
    thought = {"type": "thinking", "thinking": "Rome.", "signature": "abc"}
    results = [
        {"type": "tool_result", "tool_use_id": "toolu_1", "content": [text("Sunny")]},
        {"type": "tool_result", "tool_use_id": "toolu_2", "is_error": True, "content": "No such city"},
        {"type": "tool_result", "tool_use_id": "toolu_3"},
        text("And?"),
    ]
    hidden = {"type": "redacted_thinking", "data": "…"}
    sent = body("Hi", {"role": "assistant", "content": [thought, hidden, text("Let me look."), call]}, results)

    assert await messages_read(tmp_path, sent) == [
        Message("user", "Hi"),
        Message(
            "assistant",
            "Let me look.",
            thinking="Rome.",
            tool_calls=(ToolCall("toolu_1", "weather", '{"city": "Rome"}'),),
        ),
        Message("tool", "Sunny", name="weather", tool_call_id="toolu_1"),
        Message("tool", "Error:\nNo such city", tool_call_id="toolu_2"),
        Message("tool", "", tool_call_id="toolu_3"),
        Message("user", "And?"),
    ]


async def test_pictures_keep_their_places_between_texts(tmp_path: Path) -> None:
    picture = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}
    result = {"type": "tool_result", "tool_use_id": "t", "content": [text("Seen:"), picture]}

    user, tool, last = await messages_read(tmp_path, body([text("Look: "), picture, text("?")], [result], "Well?"))

    assert (user.content, [image.at for image in user.images]) == ("Look: ?", [6])
    assert user.images[0].data.startswith(b"\x89PNG")
    assert (tool.content, [image.at for image in tool.images]) == ("Seen:", [5])
    assert last == Message("user", "Well?")


async def test_documents_of_text_and_search_results_are_read_as_text(tmp_path: Path) -> None:
    plain = {"type": "text", "media_type": "text/plain", "data": "Once upon a time"}
    document = {"type": "document", "title": "Tale", "context": "old", "source": plain, "citations": {"enabled": False}}
    in_blocks = {"type": "document", "source": {"type": "content", "content": [text("In blocks")]}}
    found = {"type": "search_result", "title": "Page", "source": "https://example.org", "content": [text("Found")]}

    (message,) = await messages_read(tmp_path, body([document, in_blocks, found]))

    assert message.content.split("\n") == [
        "Tale", "old", "Once upon a time", "In blocks", "Page", "https://example.org", "Found",
    ]  # fmt: skip


async def test_claude_codes_requests_are_read_without_what_differs_in_each(tmp_path: Path) -> None:
    recorded = json.loads((RECORDED / "claude-code.json").read_text())
    async with front(tmp_path) as f:
        for name, sent in recorded.items():
            assert (await f.post("/v1/messages?beta=true", sent)).status_code == 200, name
    first, second = f.prompt_reader.messages[:2]
    tools = [[tool.name for tool in options.tool_use.tools] for options in f.prompt_reader.options[:2]]

    assert first[0].content.startswith("You are an agent that helps with code.\n# Tone")
    assert [message.role for message in second] == ["system", "user", "system", "assistant", "tool", "tool", "user"]
    assert second[3].thinking == "I shall echo."
    assert (second[4].content, second[5].content) == ("hi", "Later")
    assert "Later" not in tools[0], "a deferred tool is shown only once it was found"
    assert "Later" in tools[1]
    assert f.prompt_reader.options[0].effort == "high"
    assert f.prompt_reader.options[2].effort == "none"
    assert f.prompt_reader.options[2].grammar is not None


async def test_thinking_that_was_left_out_of_a_reply_comes_back_in_its_signature(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        f.engine.reply = lambda _: FakeReply("Yes.", "Hm: is it?")
        reply = await ask(f, body(thinking={"type": "adaptive", "display": "omitted"}))
        await ask(f, body("Hi", {"role": "assistant", "content": reply["content"]}, "Why?"))

    assert reply["content"][0]["thinking"] == ""
    assert f.prompt_reader.messages[-1][1] == Message("assistant", "Yes.", thinking="Hm: is it?")


@pytest.mark.parametrize("signature", ["", "EpYBCkgI…", "agentname.", "agentname.?", "agentname.gICA", None, 5])
async def test_a_signature_that_says_nothing_is_taken(tmp_path: Path, signature: Any) -> None:
    thought = {"type": "thinking", "thinking": "", "signature": signature}
    read = await messages_read(tmp_path, body("Hi", {"role": "assistant", "content": [thought, text("Yes.")]}, "Why?"))

    assert read[1] == Message("assistant", "Yes.")


async def test_settings_reach_the_engine(tmp_path: Path) -> None:
    settings = {"temperature": 0.5, "top_p": 0.9, "top_k": 7, "stop_sequences": ["END", ""], "seed": 3}
    async with front(tmp_path) as f:
        await ask(f, body(**settings, metadata={"user_id": "1"}, service_tier="auto", cache_control=None))
        request = chat_request(f.engine.jobs.popitem()[1])

    assert (request.temperature, request.top_p, request.top_k, request.seed) == (0.5, 0.9, 7, 3)
    assert (request.stop, request.max_tokens) == (("END",), 9)


@pytest.mark.parametrize(
    ("sent", "effort", "switched_on", "budget"),
    [
        ({}, None, False, None),
        ({"thinking": {"type": "disabled"}}, "none", False, None),
        ({"thinking": {"type": "disabled"}, "output_config": {"effort": "max"}}, "none", False, None),
        ({"thinking": {"type": "adaptive"}}, None, True, None),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, None, True, 1024),
        ({"thinking": {"type": "adaptive"}, "output_config": {"effort": "xhigh"}}, "high", False, None),
        ({"output_config": {"effort": "low"}}, "low", False, None),
    ],
)
async def test_thinking_is_asked_for_by_type_effort_and_budget(
    tmp_path: Path, sent: dict[str, Any], effort: str | None, switched_on: bool, budget: int | None
) -> None:
    async with front(tmp_path) as f:
        await ask(f, body(**sent))
        request = chat_request(f.engine.jobs.popitem()[1])
    (options,) = f.prompt_reader.options

    assert (options.effort, request.max_thinking_tokens) == (effort, budget)
    assert (options.template_variables.get("enable_thinking") is True) == switched_on


async def test_a_message_of_the_system_for_one_turn_is_left_out_afterwards(tmp_path: Path) -> None:
    note = {"role": "system", "content": "For now.", "clear_at": "next_user_message"}

    assert Message("system", "For now.") in await messages_read(tmp_path / "now", body("Hi", note))
    assert await messages_read(tmp_path / "later", body("Hi", note, "And?")) == [
        Message("user", "Hi"),
        Message("user", "And?"),
    ]


@pytest.mark.parametrize("place", ["output_config.format", "output_format"])
async def test_a_schema_of_the_reply_becomes_its_grammar(tmp_path: Path, place: str) -> None:
    async with front(tmp_path) as f:
        await ask(
            f, body(**({"output_format": FORM} if place == "output_format" else {"output_config": {"format": FORM}}))
        )

    assert f.prompt_reader.options[0].grammar == Grammar("json_schema", '{"type": "object"}', field=f"{place}.schema")


async def test_what_cannot_be_done_and_changes_little_is_a_warning(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        reply = await ask(f, body(context_management={"edits": []}, fallbacks=[{"model": "other"}]))
        streamed = await f.post("/v1/messages", body(context_management={"edits": []}, stream=True))
        plain = await ask(f, body())

    assert [warning.partition(":")[0] for warning in reply["warnings"]] == ["context_management", "fallbacks"]
    assert '"warnings": ["context_management:' in streamed.text
    assert "warnings" not in plain


@pytest.mark.parametrize(("sent", "message"), REFUSED, ids=[message for _, message in REFUSED])
async def test_what_cannot_be_done_is_refused_by_its_place(tmp_path: Path, sent: dict[str, Any], message: str) -> None:
    assert message in await refusal(tmp_path, sent)


@pytest.mark.parametrize("field", ["mcp_servers", "container", "thread", "compaction", "tools", "stop_sequences"])
async def test_a_field_that_asks_for_nothing_is_taken(tmp_path: Path, field: str) -> None:
    async with front(tmp_path) as f:
        await ask(f, body(**{field: None}))
        await ask(f, body(**{field: []}))
