"""Unmodified programs that use OpenAI's API through their own libraries, against the server on a socket.

The test of a program that is not installed is skipped.
"""

from __future__ import annotations

import asyncio
import base64
import sys
from pathlib import Path

import pytest

from tests.fakes import messages_in
from tests.support.http.front import Front, front
from tests.support.http.http_front import finish_jobs, listening

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

PNG = b"\x89PNG\r\n\x1a\n"
REPLY = "Hé 👋 there"


def reply_to_chats(f: Front) -> None:
    f.engine.reply = lambda request: f"{REPLY} {len(messages_in(request.prompt))}"


async def test_langchain_chats_whole_streamed_and_in_a_chain(tmp_path: Path) -> None:
    langchain = pytest.importorskip("langchain_openai", reason="pip install langchain-openai")
    from langchain_core.output_parsers import StrOutputParser
    from langchain_core.prompts import ChatPromptTemplate

    async with front(tmp_path) as f, listening(f) as address:
        reply_to_chats(f)
        model = langchain.ChatOpenAI(
            base_url=f"{address}/v1",
            api_key=f.keys["pro"],
            model="talker",
            temperature=0,
            max_tokens=9,
            max_retries=0,
            stream_usage=True,  # LangChain requests the usage by default only from OpenAI's own address
        )
        whole = await model.ainvoke([("system", "Be brief."), ("human", "Hi")])
        pieces = [piece async for piece in model.astream("Hi")]
        chain = ChatPromptTemplate.from_messages([("human", "Tell me of {what}.")]) | model | StrOutputParser()
        several = await chain.abatch([{"what": "tea"}, {"what": "salt"}])

    assert whole.content == f"{REPLY} 2"
    assert whole.usage_metadata["total_tokens"] == 17
    assert whole.response_metadata["finish_reason"] == "stop"
    assert "".join(piece.content for piece in pieces) == f"{REPLY} 1"
    assert sum(piece.usage_metadata["output_tokens"] for piece in pieces if piece.usage_metadata) == 5
    assert several == [f"{REPLY} 1"] * 2


@pytest.mark.filterwarnings("ignore")  # the library's own warnings about pydantic and unclosed sessions
async def test_litellm_chats_generates_images_and_maps_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # otherwise the library downloads a price list
    litellm = pytest.importorskip("litellm", reason="pip install litellm")
    async with front(tmp_path) as f, listening(f) as address:
        reply_to_chats(f)
        finish_jobs(f)
        options = {"api_base": f"{address}/v1", "api_key": f.keys["pro"], "num_retries": 0}
        turns = [{"role": "user", "content": "Hi"}]
        whole = await litellm.acompletion("openai/talker", turns, max_tokens=9, **options)
        stream = await litellm.acompletion(
            "openai/talker", turns, stream=True, stream_options={"include_usage": True}, **options
        )
        chunks = [chunk async for chunk in stream]
        # The library sends `response_format` only for the names of OpenAI's models, so that the reply has both formats.
        images = await litellm.aimage_generation(prompt="A city", model="openai/painter", n=2, **options)
        with pytest.raises(litellm.AuthenticationError):
            await litellm.acompletion("openai/talker", turns, **{**options, "api_key": "an_wrong"})
        with pytest.raises(litellm.BadRequestError, match="max_tokens"):
            await litellm.acompletion("openai/talker", turns, max_tokens=0, **options)

    assert whole.choices[0].message.content == f"{REPLY} 1"
    assert whole.usage.total_tokens == 17
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == f"{REPLY} 1"
    assert next(chunk.usage for chunk in chunks if getattr(chunk, "usage", None)).completion_tokens == 5
    assert [base64.b64decode(image.b64_json)[:8] for image in images.data] == [PNG, PNG]
    assert images.data[0].url.startswith("http://127.0.0.1:")


async def test_the_llm_command_chats_and_continues_a_conversation(tmp_path: Path) -> None:
    pytest.importorskip("llm", reason="pip install llm")
    async with front(tmp_path / "server") as f, listening(f) as address:
        reply_to_chats(f)
        (tmp_path / "extra-openai-models.yaml").write_text(
            f"- model_id: ours\n  model_name: talker\n  api_base: {address}/v1\n  api_key_name: ours\n"
        )

        async def run(*words: str) -> str:
            env = {"LLM_USER_PATH": str(tmp_path), "PATH": "/usr/bin:/bin", "PYTHONUTF8": "1", "HOME": str(tmp_path)}
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "llm", *words, env=env,
                stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
            )  # fmt: skip
            output, _ = await process.communicate()
            return output.decode().strip()

        key = f.keys["pro"]
        streamed = await run("-m", "ours", "--key", key, "Hi", "-s", "Be brief.")
        continued = await run("-c", "--key", key, "And now?")
        whole = await run("-m", "ours", "--key", key, "--no-stream", "Hi")

    assert streamed == f"{REPLY} 2"
    assert continued == f"{REPLY} 4"  # llm stores the conversation and sends all messages
    assert whole == f"{REPLY} 1"
