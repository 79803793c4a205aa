"""Ollama's own Python client: chats, texts, streams, tools, formats, embeddings, models, errors. Prints JSON."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import ollama
from pydantic import BaseModel

ADDRESS, KEY = sys.argv[1:3]
HI = [{"role": "user", "content": "Hi"}]


class City(BaseModel):
    name: str
    inhabitants: int


def weather(city: str) -> str:
    """Tells the weather of a city.

    Args:
        city: The name of the city.
    """
    return f"Sunny in {city}"


def chats(client: ollama.Client) -> dict[str, Any]:
    whole = client.chat("talker", HI, options={"temperature": 0.5, "num_ctx": 4096}, keep_alive="5m")
    parts = list(client.chat("talker", HI, stream=True))
    text = client.generate("talker", "Hi", system="Be brief.")
    pieces = list(client.generate("talker", "Hi", stream=True))
    structured = client.chat("talker", HI, format=City.model_json_schema())
    return {
        "whole": whole.message.content,
        "done": [whole.done_reason, whole.prompt_eval_count, whole.eval_count, whole.total_duration > 0],
        "streamed": "".join(part.message.content for part in parts),
        "streamed end": [parts[-1].done, parts[-1].eval_count],
        "text": text.response,
        "streamed text": "".join(piece.response for piece in pieces),
        "structured": City.model_validate_json(structured.message.content).model_dump(),
        "loaded": client.generate("talker").done_reason,
        "unloaded": client.chat("talker", [], keep_alive=0).done_reason,
    }


def tools(client: ollama.Client) -> dict[str, Any]:
    asked = client.chat("talker", HI, tools=[weather])
    (call,) = asked.message.tool_calls
    result = {"role": "tool", "tool_name": call.function.name, "content": weather(**call.function.arguments)}
    answered = client.chat("talker", [*HI, asked.message, result], tools=[weather])
    streamed = [part.message.tool_calls for part in client.chat("talker", HI, tools=[weather], stream=True)]
    return {
        "call": [call.function.name, call.function.arguments],
        "answer": answered.message.content,
        "streamed": [each.function.name for calls in streamed if calls for each in calls],
    }


def models(client: ollama.Client) -> dict[str, Any]:
    shown = client.show("talker:latest")
    return {
        "list": [model.model for model in client.list().models],
        "capabilities": shown.capabilities,
        "context": shown.modelinfo["chat.context_length"],
        "running": [model.model for model in client.ps().models],
        "embed": [len(vector) for vector in client.embed("embedder", ["ab", "c"]).embeddings],
        "embeddings": len(client.embeddings("embedder", "ab").embedding),
    }


def errors(client: ollama.Client) -> dict[str, Any]:
    wrong = {
        "unknown model": lambda: client.chat("none", HI),
        "unknown model, streamed": lambda: list(client.chat("none", HI, stream=True)),
        "wrong option": lambda: client.chat("talker", HI, options={"temperature": 9}),
        "wrong key": lambda: ollama.Client(ADDRESS, headers={"authorization": "Bearer an_wrong"}).list(),
        "pull": lambda: client.pull("llama3.2"),
    }
    found = {}
    for name, call in wrong.items():
        try:
            call()
        except ollama.ResponseError as error:
            found[name] = [error.status_code, error.error]
    return found


async def asynchronous(client: ollama.AsyncClient) -> str:
    return "".join([part.message.content async for part in await client.chat("talker", HI, stream=True)])


if __name__ == "__main__":
    headers = {"authorization": f"Bearer {KEY}"}
    client = ollama.Client(ADDRESS, headers=headers)
    print(
        json.dumps(
            {
                "chats": chats(client),
                "tools": tools(client),
                "models": models(client),
                "errors": errors(client),
                "async": asyncio.run(asynchronous(ollama.AsyncClient(ADDRESS, headers=headers))),
            }
        )
    )
