"""Libraries that embed texts through OpenAI's API. Prints the vectors that they got as JSON."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import litellm
import openai
from langchain_openai import OpenAIEmbeddings

ADDRESS, KEY, MODEL = sys.argv[1:4]
URL = f"{ADDRESS}/v1"
TEXTS = ["Hello", "you there"]


async def of_openai() -> dict[str, Any]:
    async with openai.AsyncOpenAI(base_url=URL, api_key=KEY, max_retries=0) as client:
        usual = await client.embeddings.create(model=MODEL, input=TEXTS)  # sends encoding_format base64
        floats = await client.embeddings.create(model=MODEL, input="Hello", encoding_format="float")
        short = await client.embeddings.create(model=MODEL, input=[[72, 101]], dimensions=2)
        try:
            await client.embeddings.create(model=MODEL, input="")
            refused = ""
        except openai.BadRequestError as error:
            refused = f"{error.code}: {error.param}"
    return {
        "usual": [entry.embedding for entry in usual.data],
        "floats": floats.data[0].embedding,
        "short": short.data[0].embedding,
        "tokens": usual.usage.total_tokens,
        "model": usual.model,
        "refused": refused,
    }


async def langchain() -> dict[str, Any]:
    # Without that check it sends texts; with it, tokens of OpenAI's own models, which mean nothing to another model.
    model = OpenAIEmbeddings(base_url=URL, api_key=KEY, model=MODEL, check_embedding_ctx_length=False, max_retries=0)
    return {"documents": await model.aembed_documents(TEXTS), "query": await model.aembed_query("Hello")}


async def of_litellm() -> dict[str, Any]:
    reply = await litellm.aembedding(f"openai/{MODEL}", input=TEXTS, api_base=URL, api_key=KEY, num_retries=0)
    return {
        "vectors": [entry["embedding"] for entry in reply.data],
        "tokens": reply.usage.total_tokens,
    }


async def main() -> None:
    got = await asyncio.gather(of_openai(), langchain(), of_litellm())
    print(json.dumps(dict(zip(("openai", "langchain", "litellm"), got, strict=True))))


asyncio.run(main())
