"""Anthropic's own Python client: messages, streams, tools, structured output, counts and errors. Prints JSON."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import anthropic
from pydantic import BaseModel

ADDRESS, KEY = sys.argv[1:3]
OPTIONS: dict[str, Any] = {"base_url": ADDRESS, "max_retries": 0}
HI: dict[str, Any] = {"model": "talker", "max_tokens": 99, "messages": [{"role": "user", "content": "Hi"}]}
WEATHER = {
    "name": "weather",
    "description": "Tells the weather of a city.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


class City(BaseModel):
    name: str
    inhabitants: int


@anthropic.beta_tool
def temperature(city: str) -> str:
    """Tells the temperature.

    Args:
        city: The name of the city.
    """
    return f"21 degrees in {city}"


def messages(client: anthropic.Anthropic) -> dict[str, Any]:
    # The library has no arguments for sampling any more.
    whole = client.messages.create(**HI, system="Be brief.", stop_sequences=["END"], extra_body={"temperature": 0.5})
    with client.messages.stream(**HI) as stream:
        streamed = "".join(stream.text_stream)
        final = stream.get_final_message()
    parsed = client.messages.parse(**HI, output_format=City)
    return {
        "whole": whole.content[0].text,
        "stop reason": whole.stop_reason,
        "tokens": whole.usage.input_tokens + whole.usage.output_tokens,
        "streamed": streamed,
        "final": final.content[0].text,
        "parsed": parsed.parsed_output.model_dump(),
        "counted": client.messages.count_tokens(model="talker", messages=HI["messages"]).input_tokens,
        "models": [model.id for model in client.models.list()],
        "model": client.models.retrieve("talker").display_name,
    }


def tools(client: anthropic.Anthropic) -> dict[str, Any]:
    """A call by hand, one in a stream, and the library's own loop, which uses the beta address."""
    asked = client.messages.create(**HI, tools=[WEATHER])
    call = asked.content[-1]
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "Sunny"}
    turns = [*HI["messages"], asked.to_param(), {"role": "user", "content": [result]}]
    answered = client.messages.create(**{**HI, "messages": turns}, tools=[WEATHER])
    with client.messages.stream(**HI, tools=[WEATHER], tool_choice={"type": "tool", "name": "weather"}) as stream:
        parts = [event.partial_json for event in stream if event.type == "input_json"]
        streamed = stream.get_final_message().content[-1]
    last = client.beta.messages.tool_runner(**HI, tools=[temperature]).until_done()
    return {
        "call": [asked.stop_reason, call.id, call.name, call.input],
        "answer": answered.content[0].text,
        "streamed": [streamed.name, streamed.input, "".join(parts) == json.dumps(streamed.input)],
        "loop": last.content[0].text,
    }


def errors(client: anthropic.Anthropic) -> dict[str, str]:
    wrong = {
        "unknown model": lambda: client.messages.create(**{**HI, "model": "claude-sonnet-4-5"}),
        "wrong field": lambda: client.messages.create(**{**HI, "extra_body": {"temperature": 5}}),
        "too long": lambda: client.messages.create(**{**HI, "messages": [{"role": "user", "content": "x" * 70_000}]}),
        "wrong key": lambda: anthropic.Anthropic(**OPTIONS, api_key="an_wrong").messages.create(**HI),
    }
    found = {}
    for name, call in wrong.items():
        try:
            call()
        except anthropic.APIStatusError as error:
            found[name] = [type(error).__name__, error.type, error.request_id is not None, error.api_message]
    return found


async def asynchronous() -> str:
    client = anthropic.AsyncAnthropic(**OPTIONS, auth_token=KEY, api_key=None)
    async with client.messages.stream(**HI) as stream:
        return "".join([text async for text in stream.text_stream])


if __name__ == "__main__":
    client = anthropic.Anthropic(**OPTIONS, api_key=KEY)
    print(
        json.dumps(
            {
                "messages": messages(client),
                "tools": tools(client),
                "errors": errors(client),
                "async": asyncio.run(asynchronous()),
            }
        )
    )
