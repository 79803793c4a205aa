"""Libraries and a command that use OpenAI's API chat and make pictures. Prints what they got as JSON."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import litellm
import openai
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_openai import ChatOpenAI

ADDRESS, KEY = sys.argv[1:3]
URL = f"{ADDRESS}/v1"


async def langchain() -> dict[str, Any]:
    model = ChatOpenAI(
        base_url=URL,
        api_key=KEY,
        model="talker",
        temperature=0,
        max_tokens=9,
        max_retries=0,
        stream_usage=True,  # LangChain requests the usage by default only from OpenAI's own address
    )
    whole = await model.ainvoke([("system", "Be brief."), ("human", "Hi")])
    pieces = [piece async for piece in model.astream("Hi")]
    chain = ChatPromptTemplate.from_messages([("human", "Tell me of {what}.")]) | model | StrOutputParser()
    return {
        "whole": whole.content,
        "tokens": whole.usage_metadata["total_tokens"],
        "finish": whole.response_metadata["finish_reason"],
        "streamed": "".join(piece.content for piece in pieces),
        "streamed tokens": sum(piece.usage_metadata["output_tokens"] for piece in pieces if piece.usage_metadata),
        "chains": await chain.abatch([{"what": "tea"}, {"what": "salt"}]),
    }


async def of_litellm() -> dict[str, Any]:
    options = {"api_base": URL, "api_key": KEY, "num_retries": 0}
    turns = [{"role": "user", "content": "Hi"}]
    whole = await litellm.acompletion("openai/talker", turns, max_tokens=9, **options)
    stream = await litellm.acompletion(
        "openai/talker", turns, stream=True, stream_options={"include_usage": True}, **options
    )
    chunks = [chunk async for chunk in stream]
    # The library sends `response_format` only for the names of OpenAI's models, so that the reply has both formats.
    images = await litellm.aimage_generation(prompt="A city", model="openai/painter", n=2, **options)
    return {
        "whole": whole.choices[0].message.content,
        "tokens": whole.usage.total_tokens,
        "streamed": "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices),
        "streamed tokens": next(chunk.usage for chunk in chunks if getattr(chunk, "usage", None)).completion_tokens,
        "images": [base64.b64decode(image.b64_json)[1:4].decode() for image in images.data],
        "image url": images.data[0].url,
        "wrong key": await error_of(litellm.acompletion("openai/talker", turns, **{**options, "api_key": "an_wrong"})),
        "wrong field": await error_of(litellm.acompletion("openai/talker", turns, max_tokens=0, **options)),
    }


async def error_of(call: Any) -> str:
    try:
        await call
    except openai.APIError as error:
        return f"{type(error).__name__}: {error}"
    return "none"


def llm() -> dict[str, str]:
    folder = Path("llm").absolute()
    folder.mkdir()
    (folder / "extra-openai-models.yaml").write_text(
        f"- model_id: ours\n  model_name: talker\n  api_base: {URL}\n  api_key_name: ours\n"
    )

    def run(*words: str) -> str:
        command = [sys.executable, "-m", "llm", *words, "--key", KEY]
        env = os.environ | {"LLM_USER_PATH": str(folder)}
        return subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout.strip()

    return {
        "streamed": run("-m", "ours", "Hi", "-s", "Be brief."),
        "continued": run("-c", "And now?"),
        "whole": run("-m", "ours", "--no-stream", "Hi"),
    }


async def main() -> None:
    print(json.dumps({"langchain": await langchain(), "litellm": await of_litellm(), "llm": llm()}))


asyncio.run(main())
