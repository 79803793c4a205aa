"""Real clients, unmodified, require calls and objects of the real server and its small chat model. The model is no
judge of the weather, but what it writes has the form that was asked for, at whatever temperature.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.http.client_programs import run_program
from tests.support.http.live_server import LiveServer

pytestmark = [pytest.mark.live, pytest.mark.slow]

OBJECTS = {
    "structured/main.py": (
        "openai.parse", "openai.parse_streamed", "openai.parsed_call", "openai.parsed_call_streamed",
        "langchain.output_by_json_schema", "langchain.output_by_function_calling", "langchain.output_streamed",
        "litellm.response_format", "instructor.tools", "instructor.json_schema", "pydantic_ai.output_by_tool",
        "pydantic_ai.output_native",
    ),
    "structured/main.mjs": (
        "openai-node.parse", "openai-node.parse_streamed", "ai-sdk-openai-compatible.generate_object",
        "ai-sdk-openai-compatible.output_streamed", "ai-sdk-openai.stream_object",
    ),
}  # fmt: skip
CALLS = {
    "structured/main.py": (
        "openai.older_functions", "langchain.bound_tool", "langchain.bound_tool_streamed", "litellm.tools",
        "litellm.tools_streamed",
    ),
    "structured/main.mjs": (
        "openai-node.parsed_call", "openai-node.parsed_call_streamed", "ai-sdk-openai.named_call",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    live = LiveServer(tmp_path_factory.mktemp("structured") / "data").start()
    yield live
    assert live.stop() == 0


@pytest.mark.parametrize("program", OBJECTS)
def test_objects_and_calls_have_the_form_that_was_asked_for(server: LiveServer, program: str) -> None:
    checks = (*OBJECTS[program], *CALLS[program])
    address = f"http://127.0.0.1:{server.port}"
    got = asyncio.run(run_program(program, address, server.key, "smollm2-135m", *checks))

    assert got.keys() == set(checks)
    for check in OBJECTS[program]:
        weather: Any = got[check].get("Weather", got[check])
        assert weather.keys() == {"city", "degrees", "sky"}, check
        assert isinstance(weather["city"], str), check
        assert weather["degrees"] in range(-60, 61), check
        assert weather["sky"] in ("clear", "cloudy"), check
    for check in CALLS[program]:
        assert got[check].keys() == {"city"}, check
        assert isinstance(got[check]["city"], str), check
