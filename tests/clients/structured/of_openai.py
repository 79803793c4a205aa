"""OpenAI's own client: parsed replies, parsed calls, the helper for streams, a loop by hand, the older functions."""

from __future__ import annotations

import json
from typing import Any

import openai
from asked import TOOL, WEATHER_OF_CITY, Asked, Weather, get_weather


def client(asked: Asked) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=asked.url, api_key=asked.key, max_retries=0)


async def parse(asked: Asked) -> Any:
    async with client(asked) as ai:
        completion = await ai.chat.completions.parse(
            model=asked.model, messages=asked.messages, response_format=Weather
        )
    return completion.choices[0].message.parsed


async def parse_streamed(asked: Asked) -> Any:
    async with (
        client(asked) as ai,
        ai.chat.completions.stream(model=asked.model, messages=asked.messages, response_format=Weather) as stream,
    ):
        kinds = {event.type async for event in stream}
        assert "content.delta" in kinds, kinds
        return (await stream.get_final_completion()).choices[0].message.parsed


async def json_object(asked: Asked) -> Any:
    messages = [{"role": "system", "content": "Answer in JSON."}, *asked.messages]
    async with client(asked) as ai:
        completion = await ai.chat.completions.create(
            model=asked.model, messages=messages, response_format={"type": "json_object"}
        )
    return json.loads(completion.choices[0].message.content)


async def parsed_call(asked: Asked) -> Any:
    async with client(asked) as ai:
        completion = await ai.chat.completions.parse(
            model=asked.model,
            messages=asked.messages,
            tools=[openai.pydantic_function_tool(Weather)],
            tool_choice="required",
            parallel_tool_calls=False,
        )
    (choice,) = completion.choices
    assert choice.finish_reason == "tool_calls"
    return choice.message.tool_calls[0].function.parsed_arguments


async def parsed_call_streamed(asked: Asked) -> Any:
    async with (
        client(asked) as ai,
        ai.chat.completions.stream(
            model=asked.model,
            messages=asked.messages,
            tools=[openai.pydantic_function_tool(Weather)],
            tool_choice={"type": "function", "function": {"name": "Weather"}},
        ) as stream,
    ):
        done = [event async for event in stream if event.type == "tool_calls.function.arguments.done"]
        completion = await stream.get_final_completion()
    (event,) = done
    assert event.parsed_arguments == completion.choices[0].message.tool_calls[0].function.parsed_arguments
    return event.parsed_arguments


async def loop(asked: Asked) -> Any:
    messages = asked.messages
    async with client(asked) as ai:
        while True:
            completion = await ai.chat.completions.create(model=asked.model, messages=messages, tools=[TOOL])
            message = completion.choices[0].message
            messages.append(message)
            if not message.tool_calls:
                return message.content
            for call in message.tool_calls:
                result = get_weather(**json.loads(call.function.arguments))
                messages.append({"role": "tool", "tool_call_id": call.id, "content": result})


async def older_functions(asked: Asked) -> Any:
    async with client(asked) as ai:
        completion = await ai.chat.completions.create(
            model=asked.model,
            messages=asked.messages,
            functions=[WEATHER_OF_CITY],
            function_call={"name": "get_weather"},
        )
    (choice,) = completion.choices
    assert choice.finish_reason == "function_call"
    return json.loads(choice.message.function_call.arguments)


CHECKS = (parse, parse_streamed, json_object, parsed_call, parsed_call_streamed, loop, older_functions)
