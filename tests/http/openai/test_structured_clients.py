"""Real clients use tools and structured output, whole and streamed, over a socket: what each asks of the server, and
what it makes of the replies of an engine that does all it is asked for.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pipelines.chat_interface import PromptOptions
from tests.fakes import FakePromptReader
from tests.support.http.client_programs import run_program
from tests.support.http.front import front
from tests.support.http.http_front import listening
from tests.support.http.obliging_engine import oblige
from tests.support.http.recorded_bodies import record

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

CITY = {"city": "text"}
BY_SCHEMA = {"city": "text", "degrees": 1, "sky": "clear"}  # as the engine fills a schema
JSON_OBJECT = {"city": "Rome", "degrees": 20, "sky": "clear"}  # what the engine says when it is asked for any object
TOLD = "The tool says: 20 degrees in text"


def model(fields: Any) -> Any:
    """A pydantic model that the client made of the reply."""
    return {"Weather": fields}


REQUIRED = "required of get_weather, one call"
NAMED = "required get_weather of get_weather, one call"
WEATHER = "required Weather of Weather, one call"
LOOP = ["auto of get_weather"] * 2  # the call, and the answer after the tool's result
SCHEMA = "json_schema"

# By check: what the client got, and what it asked, request by request.
PYTHON: Mapping[str, tuple[Any, list[str]]] = {
    "openai.parse": (model(BY_SCHEMA), [SCHEMA]),
    "openai.parse_streamed": (model(BY_SCHEMA), [SCHEMA]),
    "openai.json_object": (JSON_OBJECT, ["json_object"]),
    "openai.parsed_call": (model(BY_SCHEMA), ["required of Weather, one call"]),
    "openai.parsed_call_streamed": (model(BY_SCHEMA), [WEATHER]),
    "openai.loop": (TOLD, LOOP),
    "openai.older_functions": (CITY, [NAMED]),
    "langchain.bound_tool": (CITY, [REQUIRED]),
    "langchain.bound_tool_streamed": (CITY, [NAMED]),
    "langchain.agent": (["", "20 degrees in text", TOLD], LOOP),
    "langchain.agent_streamed": (f"20 degrees in text{TOLD}", LOOP),
    "langchain.agent_with_output_by_tool": (model(BY_SCHEMA), ["required of get_weather Weather"] * 2),
    "langchain.agent_with_output_by_schema": (model(BY_SCHEMA), [f"auto of get_weather, {SCHEMA}"] * 2),
    "langchain.output_by_json_schema": (model(BY_SCHEMA), [SCHEMA]),
    "langchain.output_by_function_calling": (model(BY_SCHEMA), [WEATHER]),
    "langchain.output_by_json_mode": (model(JSON_OBJECT), ["json_object"]),
    "langchain.output_streamed": (BY_SCHEMA, [SCHEMA]),
    "litellm.tools": (CITY, [REQUIRED]),
    "litellm.tools_streamed": (CITY, [REQUIRED]),
    "litellm.response_format": (BY_SCHEMA, [SCHEMA]),
    "litellm.response_format_streamed": (BY_SCHEMA, [SCHEMA]),
    "instructor.tools": (model(BY_SCHEMA), [WEATHER]),
    "instructor.json": (model(JSON_OBJECT), ["json_object"]),
    "instructor.json_schema": (model(BY_SCHEMA), [SCHEMA]),
    "instructor.partial": (model(BY_SCHEMA), ["required PartialWeather of PartialWeather, one call"]),
    "pydantic_ai.tool": (TOLD, LOOP),
    "pydantic_ai.tool_streamed": (TOLD, LOOP),
    "pydantic_ai.output_by_tool": (model(BY_SCHEMA), ["required of final_result, one call"]),
    "pydantic_ai.output_by_tool_streamed": (model(BY_SCHEMA), ["required of get_weather final_result"] * 2),
    "pydantic_ai.output_native": (model(BY_SCHEMA), [SCHEMA]),
    "pydantic_ai.output_native_streamed": (model(BY_SCHEMA), [f"auto of get_weather, {SCHEMA}"] * 2),
    "pydantic_ai.output_prompted": (model(JSON_OBJECT), ["json_object"]),
}
VERCEL: Mapping[str, tuple[Any, list[str]]] = {
    "generate_object": (BY_SCHEMA, [SCHEMA]),
    "stream_object": (BY_SCHEMA, [SCHEMA]),
    "output": (BY_SCHEMA, [SCHEMA]),
    "output_streamed": (BY_SCHEMA, [SCHEMA]),
    "tools": (TOLD, LOOP),
    "tools_streamed": (TOLD, LOOP),
    "named_call": (CITY, [NAMED]),
}
NODE: Mapping[str, tuple[Any, list[str]]] = {
    "openai-node.parse": (BY_SCHEMA, [SCHEMA]),
    "openai-node.parse_streamed": (BY_SCHEMA, [SCHEMA]),
    "openai-node.parsed_call": (CITY, [REQUIRED]),
    "openai-node.parsed_call_streamed": (CITY, [REQUIRED]),
    "openai-node.run_tools": (TOLD, LOOP),
    "openai-node.run_tools_streamed": (TOLD, LOOP),
    **{f"ai-sdk-openai-compatible.{check}": expected for check, expected in VERCEL.items()},
    **{f"ai-sdk-openai.{check}": expected for check, expected in VERCEL.items()},
}


@pytest.mark.parametrize(
    ("program", "checks"), [("structured/main.py", PYTHON), ("structured/main.mjs", NODE)], ids=["python", "node"]
)
async def test_clients_get_calls_and_objects(tmp_path: Path, program: str, checks: Any) -> None:
    async with front(tmp_path) as f:
        oblige(f, JSON_OBJECT)
        record(f, lambda body: ("structured", check_in(json.dumps(body["messages"]))))
        async with listening(f) as address:
            got = await run_program(program, address, f.keys["enterprise"], "talker")
        asked = asked_by_check(f.prompt_reader)

    assert got == {check: result for check, (result, _) in checks.items()}
    assert asked == {check: asked for check, (_, asked) in checks.items()}


def asked_by_check(reader: FakePromptReader) -> dict[str, list[str]]:
    """What each check asked, in the words of the tables. The user's message begins with the name of the check."""
    asked: dict[str, list[str]] = {}
    for messages, options in zip(reader.messages, reader.options, strict=True):
        user = next(message.content for message in messages if message.role == "user")
        asked.setdefault(check_in(user), []).append(in_words(options))
    return asked


def check_in(text: str) -> str:
    """Returns the name of the check in what the user asks."""
    found = re.search(r"\[(\S+)\] How is", text)
    assert found is not None
    return found[1]


def in_words(options: PromptOptions) -> str:
    use, words = options.tool_use, []
    if use.tools:
        words.append(f"{use.choice}{' ' + use.name if use.name else ''} of {' '.join(tool.name for tool in use.tools)}")
        assert all("city" in json.dumps(tool.parameters) for tool in use.tools)
    if not use.parallel:
        words.append("one call")
    if options.grammar is not None:
        words.append(options.grammar.kind)
        if options.grammar.kind == "json_schema":
            assert json.loads(options.grammar.text)["properties"].keys() == BY_SCHEMA.keys()
    return ", ".join(words)
