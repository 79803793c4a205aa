"""LiteLLM, which speaks Ollama's API with this server and names no Content-Type. Prints what it got as JSON."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import litellm

ADDRESS, KEY = sys.argv[1:3]
OPTIONS = {"api_base": ADDRESS, "api_key": KEY, "num_retries": 0}
TURNS = [{"role": "user", "content": "Hi"}]
FUNCTION = {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}


async def main() -> dict[str, Any]:
    whole = await litellm.acompletion("ollama_chat/talker", TURNS, max_tokens=9, temperature=0.5, **OPTIONS)
    stream = await litellm.acompletion("ollama_chat/talker", TURNS, stream=True, **OPTIONS)
    chunks = [chunk async for chunk in stream]
    tools = [{"type": "function", "function": FUNCTION}]
    called = await litellm.acompletion("ollama_chat/talker", TURNS, tools=tools, **OPTIONS)
    text = await litellm.acompletion("ollama/talker", TURNS, **OPTIONS)
    return {
        "whole": whole.choices[0].message.content,
        "tokens": whole.usage.total_tokens,
        "streamed": "".join(chunk.choices[0].delta.content or "" for chunk in chunks),
        "called": called.choices[0].message.tool_calls[0].function.name,
        "text": text.choices[0].message.content,
    }


print(json.dumps(asyncio.run(main())))
