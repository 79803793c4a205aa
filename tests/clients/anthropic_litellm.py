"""LiteLLM, which speaks Anthropic's API with this server. Prints what it got as JSON."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import litellm

ADDRESS, KEY = sys.argv[1:3]


async def main() -> dict[str, Any]:
    options = {"api_base": ADDRESS, "api_key": KEY, "num_retries": 0}
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    whole = await litellm.acompletion("anthropic/talker", turns, max_tokens=9, **options)
    stream = await litellm.acompletion("anthropic/talker", turns, stream=True, **options)
    chunks = [chunk async for chunk in stream]
    function = {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}
    called = await litellm.acompletion(
        "anthropic/talker", turns, tools=[{"type": "function", "function": function}], tool_choice="required", **options
    )
    return {
        "whole": whole.choices[0].message.content,
        "tokens": whole.usage.total_tokens,
        "streamed": "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices),
        "called": called.choices[0].message.tool_calls[0].function.name,
        "finish": called.choices[0].finish_reason,
    }


print(json.dumps(asyncio.run(main())))
