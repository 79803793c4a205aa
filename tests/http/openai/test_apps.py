"""Programs that speak OpenAI's API through libraries of their own, unmodified, against the server on a socket.

None of them is needed to work on the server: where one is not installed its test is skipped.
"""

from __future__ import annotations

import asyncio
import base64
import sys
from pathlib import Path

import pytest

from tests.support.front import Front, front
from tests.support.http_front import finish_jobs, listening

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

PNG = b"\x89PNG\r\n\x1a\n"
SAID = "Hé 👋 there"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def speak(f: Front) -> None:
    f.engine.reply = lambda request: f"{SAID} {len(request.messages)}"


async def test_langchain_chats_whole_in_a_stream_and_in_a_chain(tmp_path: Path) -> None:
    langchain = pytest.importorskip("langchain_openai", reason="pip install langchain-openai")
    from langchain_core.output_parsers import StrOutputParser
    from langchain_core.prompts import ChatPromptTemplate

    async with front(tmp_path) as f, listening(f) as address:
        speak(f)
        model = langchain.ChatOpenAI(
            base_url=f"{address}/v1",
            api_key=f.keys["pro"],
            model="talker",
            temperature=0,
            max_tokens=9,
            max_retries=0,
            stream_usage=True,  # LangChain does not ask for it where the address is not OpenAI's
        )
        whole = await model.ainvoke([("system", "Be brief."), ("human", "Hi")])
        pieces = [piece async for piece in model.astream("Hi")]
        chain = ChatPromptTemplate.from_messages([("human", "Tell me of {what}.")]) | model | StrOutputParser()
        several = await chain.abatch([{"what": "tea"}, {"what": "salt"}])

    assert whole.content == f"{SAID} 2"
    assert whole.usage_metadata["total_tokens"] == 17
    assert whole.response_metadata["finish_reason"] == "stop"
    assert "".join(piece.content for piece in pieces) == f"{SAID} 1"
    assert sum(piece.usage_metadata["output_tokens"] for piece in pieces if piece.usage_metadata) == 5
    assert several == [f"{SAID} 1"] * 2


@pytest.mark.filterwarnings("ignore")  # the library's own, of pydantic and of unclosed sessions
async def test_litellm_chats_and_makes_pictures_and_maps_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # or it asks the internet for prices
    litellm = pytest.importorskip("litellm", reason="pip install litellm")
    async with front(tmp_path) as f, listening(f) as address:
        speak(f)
        finish_jobs(f)
        ours = {"api_base": f"{address}/v1", "api_key": f.keys["pro"], "num_retries": 0}
        turns = [{"role": "user", "content": "Hi"}]
        whole = await litellm.acompletion("openai/talker", turns, max_tokens=9, **ours)
        stream = await litellm.acompletion(
            "openai/talker", turns, stream=True, stream_options={"include_usage": True}, **ours
        )
        chunks = [chunk async for chunk in stream]
        # The library passes `response_format` on for the names of OpenAI's models only: both are in the reply then.
        made = await litellm.aimage_generation(prompt="A city", model="openai/painter", n=2, **ours)
        with pytest.raises(litellm.AuthenticationError):
            await litellm.acompletion("openai/talker", turns, **{**ours, "api_key": "an_wrong"})
        with pytest.raises(litellm.BadRequestError, match="max_tokens"):
            await litellm.acompletion("openai/talker", turns, max_tokens=-1, **ours)

    assert whole.choices[0].message.content == f"{SAID} 1"
    assert whole.usage.total_tokens == 17
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == f"{SAID} 1"
    assert next(chunk.usage for chunk in chunks if getattr(chunk, "usage", None)).completion_tokens == 5
    assert [base64.b64decode(picture.b64_json)[:8] for picture in made.data] == [PNG, PNG]
    assert made.data[0].url.startswith("http://127.0.0.1:")


async def test_llm_on_the_command_line_talks_and_goes_on(tmp_path: Path) -> None:
    pytest.importorskip("llm", reason="pip install llm")
    async with front(tmp_path / "server") as f, listening(f) as address:
        speak(f)
        (tmp_path / "extra-openai-models.yaml").write_text(
            f"- model_id: ours\n  model_name: talker\n  api_base: {address}/v1\n  api_key_name: ours\n"
        )

        async def run(*words: str) -> str:
            env = {"LLM_USER_PATH": str(tmp_path), "PATH": "/usr/bin:/bin", "PYTHONUTF8": "1", "HOME": str(tmp_path)}
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "llm", *words, env=env,
                stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
            )  # fmt: skip
            told, _ = await process.communicate()
            return told.decode().strip()

        key = f.keys["pro"]
        streamed = await run("-m", "ours", "--key", key, "Hi", "-s", "Be brief.")
        went_on = await run("-c", "--key", key, "And now?")
        whole = await run("-m", "ours", "--key", key, "--no-stream", "Hi")

    assert streamed == f"{SAID} 2"
    assert went_on == f"{SAID} 4"  # llm keeps the conversation and sends it whole
    assert whole == f"{SAID} 1"
