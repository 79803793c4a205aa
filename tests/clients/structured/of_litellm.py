"""LiteLLM: tools whole and streamed, and a pydantic model as the format of the reply."""

from __future__ import annotations

import json
from typing import Any

import litellm
from asked import TOOL, Asked, Weather

REQUIRED: dict[str, Any] = {"tools": [TOOL], "tool_choice": "required", "parallel_tool_calls": False}


async def complete(asked: Asked, **options: Any) -> Any:
    return await litellm.acompletion(
        f"openai/{asked.model}", asked.messages, api_base=asked.url, api_key=asked.key, num_retries=0, **options
    )


async def tools(asked: Asked) -> Any:
    completion = await complete(asked, **REQUIRED)
    (choice,) = completion.choices
    assert choice.finish_reason == "tool_calls"
    return json.loads(choice.message.tool_calls[0].function.arguments)


async def tools_streamed(asked: Asked) -> Any:
    chunks = [chunk async for chunk in await complete(asked, stream=True, **REQUIRED)]
    message = litellm.stream_chunk_builder(chunks).choices[0].message
    return json.loads(message.tool_calls[0].function.arguments)


async def response_format(asked: Asked) -> Any:
    completion = await complete(asked, response_format=Weather)
    return json.loads(completion.choices[0].message.content)


async def response_format_streamed(asked: Asked) -> Any:
    chunks = [chunk async for chunk in await complete(asked, response_format=Weather, stream=True)]
    return json.loads("".join(chunk.choices[0].delta.content or "" for chunk in chunks))


CHECKS = (tools, tools_streamed, response_format, response_format_streamed)
