"""Real clients hold conversations of six turns, whole and streamed, over a socket. Each sends back exactly what its own
library made of the replies, of which every other one has thinking before it.

The test of a client that is not installed is skipped.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.support.http.client_conversations import N_TURNS, QUESTIONS, SYSTEM, Talker, conversation, record, reply_to
from tests.support.http.front import front
from tests.support.http.http_front import listening
from tests.support.http.node_client import node_client

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # the libraries' own, about pydantic and unclosed sessions
    pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"]),
]

NODE_CLIENTS = {
    "openai": "openai-node",
    "@ai-sdk/openai-compatible": "ai-sdk-openai-compatible",
    "@ai-sdk/openai": "ai-sdk-openai",
}
THINKING, REPLY = reply_to(N_TURNS)


@asynccontextmanager
async def talking(folder: Path, client: str, streamed: bool) -> AsyncIterator[tuple[str, str]]:
    """Yields URL and key of a server whose model must get each question with the whole conversation before it."""
    talker = Talker()
    async with front(folder) as f:
        talker.reply_in(f)
        record(f, client, "streamed" if streamed else "whole")
        async with listening(f) as address:
            yield f"{address}/v1", f.keys["enterprise"]
    assert talker.heard == [conversation(n) for n in range(1, N_TURNS + 1)]


def client(url: str, key: str) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=url, api_key=key, max_retries=0)


async def test_openai_python(tmp_path: Path, streamed: bool) -> None:
    messages: list[Any] = [{"role": "system", "content": SYSTEM}]
    async with talking(tmp_path, "openai-python", streamed) as (url, key), client(url, key) as ai:
        for question in QUESTIONS:
            messages.append({"role": "user", "content": question})
            if streamed:
                async with ai.chat.completions.stream(model="talker", messages=messages) as stream:
                    completion: Any = await stream.get_final_completion()
            else:
                completion = await ai.chat.completions.create(model="talker", messages=messages)
            messages.append(completion.choices[0].message.model_dump())

    assert (messages[-1]["content"], messages[-1]["reasoning_content"]) == (REPLY, THINKING)


@pytest.mark.parametrize("package", NODE_CLIENTS)
async def test_node(tmp_path: Path, streamed: bool, package: str) -> None:
    packages = {"openai", "ai", package} if package != "openai" else {"openai"}
    async with talking(tmp_path / "server", NODE_CLIENTS[package], streamed) as (url, key):
        way = "streamed" if streamed else "whole"
        command = node_client(
            tmp_path / "node", url, key, package, way, program="conversation.mjs", packages=sorted(packages)
        )
        node = await asyncio.create_subprocess_exec(
            *command, cwd=tmp_path / "node", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        output, errors = await node.communicate()
        assert node.returncode == 0, errors.decode()
    last = json.loads(output)

    assert last["text"] == REPLY
    match package:
        case "openai" if streamed:
            assert THINKING.endswith(
                last["thinking"]
            )  # the library keeps the last piece of a field that it does not know
        case "@ai-sdk/openai":
            assert last["thinking"] == ""  # it reads none of chat completions
        case _:
            assert last["thinking"] == THINKING


async def test_langchain(tmp_path: Path, streamed: bool) -> None:
    langchain = pytest.importorskip("langchain_openai", reason="pip install langchain-openai")
    messages: list[Any] = [("system", SYSTEM)]
    async with talking(tmp_path, "langchain", streamed) as (url, key), httpx.AsyncClient() as http:
        options = {"temperature": 0, "max_retries": 0, "http_async_client": http}
        model = langchain.ChatOpenAI(base_url=url, api_key=key, model="talker", **options)
        for question in QUESTIONS:
            messages.append(("human", question))
            if streamed:
                reply: Any = None
                async for piece in model.astream(messages):
                    reply = piece if reply is None else reply + piece
            else:
                reply = await model.ainvoke(messages)
            messages.append(reply)

    assert messages[-1].content == REPLY


async def test_litellm(tmp_path: Path, streamed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # otherwise the library downloads a price list
    litellm = pytest.importorskip("litellm", reason="pip install litellm")
    messages: list[Any] = [{"role": "system", "content": SYSTEM}]
    async with talking(tmp_path, "litellm", streamed) as (url, key):
        for question in QUESTIONS:
            messages.append({"role": "user", "content": question})
            completion = await litellm.acompletion(
                "openai/talker", messages, api_base=url, api_key=key, num_retries=0, stream=streamed
            )
            if streamed:
                completion = litellm.stream_chunk_builder([chunk async for chunk in completion], messages=messages)
            messages.append(completion.choices[0].message)

        await litellm.close_litellm_async_clients()

    assert (messages[-1].content, messages[-1].reasoning_content) == (REPLY, THINKING)


async def test_instructor(tmp_path: Path, streamed: bool) -> None:
    instructor = pytest.importorskip("instructor", reason="pip install instructor")
    messages: list[Any] = [{"role": "system", "content": SYSTEM}]
    async with talking(tmp_path, "instructor", streamed) as (url, key), client(url, key) as plain:
        ai = instructor.from_openai(plain)
        for question in QUESTIONS:
            messages.append({"role": "user", "content": question})
            completion = await ai.chat.completions.create(
                model="talker", messages=messages, response_model=None, stream=streamed
            )
            if streamed:
                pieces = [chunk.choices[0].delta.content or "" async for chunk in completion if chunk.choices]
                messages.append({"role": "assistant", "content": "".join(pieces)})
            else:
                messages.append(completion.choices[0].message.model_dump())  # the library takes nothing else

    assert messages[-1]["content"] == REPLY


async def test_pydantic_ai(tmp_path: Path, streamed: bool) -> None:
    pydantic_ai = pytest.importorskip("pydantic_ai", reason="pip install pydantic-ai-slim[openai]")
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    history: list[Any] = []
    async with talking(tmp_path, "pydantic-ai", streamed) as (url, key), client(url, key) as ai:
        model = OpenAIChatModel("talker", provider=OpenAIProvider(openai_client=ai))
        agent = pydantic_ai.Agent(model, system_prompt=SYSTEM)
        for question in QUESTIONS:
            if streamed:
                async with agent.run_stream(question, message_history=history) as result:
                    output = await result.get_output()
                    history = result.all_messages()
            else:
                run = await agent.run(question, message_history=history)
                output, history = run.output, run.all_messages()

    assert output == REPLY
    assert any(part.part_kind == "thinking" and part.content == THINKING for part in history[-1].parts)
