"""Ollama's /api/chat and /api/generate: what of a body reaches the model, and what is refused."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from models.spec import Limits
from pipelines.chat_interface import Grammar, Message, RawPrompt, ToolCall
from tests.fakes import FakeCatalogue, spec
from tests.support.http.chats import chat_request
from tests.support.http.front import Front, front

pytestmark = pytest.mark.anyio

SEEING = FakeCatalogue(spec("talker", "chat", takes_images=True, limits=Limits(context_tokens=65_536)))
PNG = base64.b64encode(b"\x89PNG\r\n\x1a\nrest").decode()
FUNCTION = {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}
TOOLS = [{"type": "function", "function": FUNCTION}]


def chat(*messages: Any, **fields: Any) -> dict[str, Any]:
    turns = [{"role": "user", "content": message} if isinstance(message, str) else message for message in messages]
    return {"model": "talker", "stream": False, "messages": turns or [{"role": "user", "content": "Hi"}], **fields}


def generate(**fields: Any) -> dict[str, Any]:
    return {"model": "talker", "stream": False, "prompt": "Hi", **fields}


async def ask(f: Front, sent: dict[str, Any]) -> Any:
    reply = await f.post("/api/chat" if "messages" in sent else "/api/generate", sent)
    assert reply.status_code == 200, reply.text
    return reply.json()


async def messages_read(folder: Path, sent: dict[str, Any]) -> list[Message]:
    async with front(folder, catalogue=SEEING) as f:
        await ask(f, sent)
    return list(f.prompt_reader.messages[-1])


async def test_a_conversation_with_tools_is_read_and_results_answer_calls_by_name(tmp_path: Path) -> None:
    calls = [{"function": {"name": name, "arguments": {"city": "Rome"}}} for name in ("weather", "time")]
    sent = chat(
        {"role": "system", "content": "Be brief."},
        "Hi",
        {"role": "assistant", "content": "", "thinking": "Rome.", "tool_calls": calls},
        {"role": "tool", "tool_name": "time", "content": "Noon"},
        {"role": "tool", "content": "Sunny"},
        {"role": "tool", "content": "Of nobody", "tool_call_id": "x"},
    )

    arguments = '{"city": "Rome"}'
    assert await messages_read(tmp_path, sent) == [
        Message("system", "Be brief."),
        Message("user", "Hi"),
        Message(
            "assistant",
            "",
            thinking="Rome.",
            tool_calls=(ToolCall("call_1", "weather", arguments), ToolCall("call_2", "time", arguments)),
        ),
        Message("tool", "Noon", name="time", tool_call_id="call_2"),
        Message("tool", "Sunny", name="weather", tool_call_id="call_1"),
        Message("tool", "Of nobody", tool_call_id="x"),
    ]


async def test_calls_with_ids_keep_them(tmp_path: Path) -> None:
    calls = [{"id": id, "function": {"name": "f", "arguments": "{}"}} for id in ("a", "b")]
    sent = chat("Hi", {"role": "assistant", "tool_calls": calls}, {"role": "tool", "content": "1", "tool_call_id": "b"})

    assert (await messages_read(tmp_path, sent))[-1] == Message("tool", "1", name="f", tool_call_id="b")


async def test_pictures_stand_before_the_text(tmp_path: Path) -> None:
    (asked,) = await messages_read(tmp_path / "chat", chat({"role": "user", "content": "What?", "images": [PNG, PNG]}))
    (described,) = await messages_read(tmp_path / "generate", generate(images=[f"data:image/png;base64,{PNG}"]))

    assert (asked.content, [image.at for image in asked.images]) == ("What?", [0, 0])
    assert (described.content, [image.data[:4] for image in described.images]) == ("Hi", [b"\x89PNG"])


async def test_a_prompt_becomes_a_message_or_is_read_as_it_is(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        await ask(f, generate(system="Be brief."))
        await ask(f, generate(raw=True, prompt="<|im_start|>user", format="json"))
        raw = f.prompt_reader.raw

    assert f.prompt_reader.messages == [(Message("system", "Be brief."), Message("user", "Hi"))]
    assert raw == [RawPrompt(text="<|im_start|>user", grammar=Grammar("json_object", field="format"))]


async def test_options_reach_the_engine_under_their_own_names(tmp_path: Path) -> None:
    options = {
        "temperature": 0.5, "top_p": 0.9, "top_k": 7, "min_p": 0.1, "seed": 3, "stop": ["END"], "num_predict": 9,
        "repeat_penalty": 1.2, "presence_penalty": 0.3, "frequency_penalty": 0.4, "num_gpu": 1, "num_thread": None,
    }  # fmt: skip
    async with front(tmp_path) as f:
        reply = await ask(f, chat(options=options, logprobs=True, top_logprobs=2))
        request = chat_request(f.engine.jobs.popitem()[1])

    assert (request.temperature, request.top_p, request.top_k, request.min_p, request.seed) == (0.5, 0.9, 7, 0.1, 3)
    assert (request.stop, request.max_tokens, request.n_logprobs) == (("END",), 9, 2)
    assert (request.repetition_penalty, request.presence_penalty, request.frequency_penalty) == (1.2, 0.3, 0.4)
    assert "warnings" not in reply


@pytest.mark.parametrize("limit", [-1, -2, 0])
async def test_a_limit_below_one_is_none(tmp_path: Path, limit: int) -> None:
    async with front(tmp_path) as f:
        await ask(f, chat(options={"num_predict": limit}))
        request = chat_request(f.engine.jobs.popitem()[1])

    assert request.max_tokens == 64, "the model's default"


async def test_options_that_are_not_done_are_warnings(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        reply = await ask(f, chat(options={"num_ctx": 4096, "mirostat": 2, "no_such": 1}))

    assert [warning.partition(":")[0] for warning in reply["warnings"]] == ["num_ctx", "mirostat", "options"]


@pytest.mark.parametrize(
    ("think", "effort", "switched_on"),
    [(None, None, False), (True, None, True), (False, "none", False), ("low", "low", False), ("max", "high", False)],
)
async def test_thinking_is_asked_for_by_a_switch_or_a_level(
    tmp_path: Path, think: Any, effort: str | None, switched_on: bool
) -> None:
    async with front(tmp_path) as f:
        await ask(f, chat(think=think))
        await ask(f, generate(think=think))

    for options in f.prompt_reader.options:
        assert (options.effort, options.template_variables.get("enable_thinking") is True) == (effort, switched_on)


@pytest.mark.parametrize(
    ("form", "grammar"),
    [
        ("", None),
        ("json", Grammar("json_object", field="format")),
        ({"type": "object"}, Grammar("json_schema", '{"type": "object"}', field="format")),
    ],
)
async def test_a_format_becomes_a_grammar(tmp_path: Path, form: Any, grammar: Grammar | None) -> None:
    async with front(tmp_path) as f:
        await ask(f, chat(format=form, tools=TOOLS))
    (options,) = f.prompt_reader.options

    assert options.grammar == grammar
    assert [(tool.name, tool.parameters) for tool in options.tool_use.tools] == [("weather", FUNCTION["parameters"])]


async def test_the_oldest_messages_of_a_chat_that_is_too_long_are_left_out(tmp_path: Path) -> None:
    old = [{"role": "user", "content": "x" * 40_000}, {"role": "assistant", "content": "y" * 40_000}]
    sent = chat({"role": "system", "content": "Be brief."}, *old, "Hi")
    async with front(tmp_path) as f:
        reply = await ask(f, sent)
        refused = await f.post("/api/chat", sent | {"truncate": False})

    assert list(f.prompt_reader.messages[1]) == [Message("system", "Be brief."), Message("user", "Hi")]
    assert "left out" in reply["warnings"][0]
    assert refused.status_code == 400


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"messages": [{"role": "user", "content": "Hi"}]}, "model is required"),
    (chat(messages="Hi"), "messages must be a list"),
    (chat({"role": "developer", "content": "x"}), "messages[0].role must be one of system, user, assistant, tool"),
    (chat({"role": "user", "content": ["x"]}), "messages[0].content must be text"),
    (chat({"role": "user", "content": "a\0"}), "messages[0].content must be text without NUL"),
    (chat({"role": "user", "images": "x"}), "messages[0].images must be a list"),
    (chat({"role": "user", "images": ["eA=="]}), "messages[0].images[0] must be a PNG"),
    (chat({"role": "assistant", "tool_calls": [{"name": "f"}]}), "messages[0].tool_calls[0] must be an object like"),
    (
        chat({"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": [1]}}]}),
        "messages[0].tool_calls[0].function.arguments must be an object",
    ),
    (chat(tools=[{"type": "function"}]), "tools[0].function must be an object"),
    (chat(format="xml"), "format must be json, or a JSON schema"),
    (chat(think="much"), "think must be true, false or one of"),
    (chat(options=[1]), "options must be an object"),
    (chat(options={"temperature": 9}), "options.temperature must be a number from 0 to 2"),
    (chat(options={"repeat_penalty": 0}), "options.repeat_penalty must be a number above 0"),
    (chat(options={"num_predict": 1.5}), "options.num_predict must be a whole number"),
    (chat(keep_alive="soon"), "keep_alive must be a time like"),
    (chat(top_logprobs=2), "top_logprobs requires logprobs"),
    (chat(message_format=1), "Unknown field message_format"),
    (generate(suffix="x"), "suffix is not supported"),
    (generate(template="{{ .Prompt }}"), "template is not supported"),
    (generate(context=[1, 2]), "context is not supported"),
    (generate(raw=True, system="Be brief."), "raw: true takes a prompt alone"),
    (generate(prompt=5), "prompt must be text"),
    (generate(model="painter"), "type is required: image or video"),
    (chat(model="painter"), "is for image, not for chat"),
]


@pytest.mark.parametrize(("sent", "message"), REFUSED, ids=[message for _, message in REFUSED])
async def test_what_cannot_be_done_is_refused_by_its_place(tmp_path: Path, sent: dict[str, Any], message: str) -> None:
    async with front(tmp_path) as f:
        reply = await f.post("/api/chat" if "messages" in sent else "/api/generate", sent)

    assert (reply.status_code, reply.json().keys()) == (400, {"error", "code"})
    assert message in reply.json()["error"]


# Our own bodies at the same addresses


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("/api/chat", {}, "message is required"),
        ("/api/chat", {"model": "talker"}, "message is required"),
        ("/api/chat", {"message": "Hi", "messages": []}, "Unknown field messages"),
        ("/api/generate", {}, "type is required"),
        ("/api/generate", {"prompt": "A city"}, "type is required"),
        ("/api/generate", {"prompt": "A city", "model": "talker", "type": "text"}, "type must be image or video"),
        ("/api/generate", {"prompt": "A city", "type": "image", "stream": False}, "Unknown field stream"),
    ],
)
async def test_other_bodies_are_ours(tmp_path: Path, path: str, body: dict[str, Any], message: str) -> None:
    async with front(tmp_path) as f:
        reply = await f.post(path, body)

    assert reply.status_code == 400
    assert message in reply.json()["error"]


async def test_a_job_has_a_small_body_and_a_chat_of_ollama_a_large_one(tmp_path: Path) -> None:
    async with front(tmp_path, catalogue=SEEING) as f:
        ours = await f.post("/api/generate", {"type": "image", "prompt": "x" * 70_000})
        theirs = await f.post(
            "/api/generate", generate(images=[base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(70_000)).decode()])
        )

    assert (ours.status_code, theirs.status_code) == (413, 200)
    assert "64 KiB" in ours.json()["error"]


@pytest.mark.parametrize("kind", [None, "application/x-www-form-urlencoded", "text/plain"])
@pytest.mark.parametrize("path", ["/api/chat", "/api/generate", "/api/show"])
async def test_a_body_of_ollama_may_say_any_type_and_ours_may_not(tmp_path: Path, path: str, kind: str | None) -> None:
    theirs = {"/api/chat": chat(), "/api/generate": generate(), "/api/show": {"model": "talker"}}
    ours = {"/api/chat": {"message": "Hi"}, "/api/generate": {"type": "image", "prompt": "A city"}}
    async with front(tmp_path) as f:
        headers = f.auth("pro") | ({"content-type": kind} if kind else {})
        taken = await f.client.post(path, content=json.dumps(theirs[path]), headers=headers)
        refused = await f.client.post(path, content=json.dumps(ours.get(path, {})), headers=headers)

    assert (taken.status_code, refused.status_code) == (200, 400)
    assert path == "/api/show" or "Content-Type must be application/json" in refused.json()["error"]
