"""OpenAI's Python library and its Responses API. Prints what it got as JSON."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import openai
from pydantic import BaseModel

ADDRESS, KEY = sys.argv[1:3]
WEATHER: dict[str, Any] = {
    "type": "function",
    "name": "weather",
    "description": "Says the weather of a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    "strict": False,
}


class City(BaseModel):
    name: str
    people: int


async def texts(ai: openai.AsyncOpenAI) -> dict[str, Any]:
    whole = await ai.responses.create(
        model="talker", instructions="Be brief.", input="Hi", temperature=0, max_output_tokens=9, metadata={"a": "b"},
        reasoning={"effort": "low", "summary": "auto"},
    )  # fmt: skip
    deltas, thoughts = [], []
    async with ai.responses.stream(
        model="talker", input=[{"role": "user", "content": [{"type": "input_text", "text": "Hi"}]}]
    ) as stream:
        async for event in stream:
            if event.type == "response.output_text.delta":
                deltas.append(event.delta)
            elif event.type == "response.reasoning_text.delta":
                thoughts.append(event.delta)
        final = await stream.get_final_response()
    return {
        "whole": whole.output_text,
        "status": whole.status,
        "metadata": whole.metadata,
        "tokens": whole.usage.total_tokens,
        "reasoning tokens": whole.usage.output_tokens_details.reasoning_tokens,
        "summary": whole.output[0].summary[0].text,
        "streamed": "".join(deltas),
        "thoughts": "".join(thoughts),
        "final": final.output_text,
        "final types": [item.type for item in final.output],
    }


async def tools(ai: openai.AsyncOpenAI) -> dict[str, Any]:
    """Calls tools until the model answers, and goes on with the ids of the responses."""
    response = await ai.responses.create(model="talker", input="How is the weather in Rome and Oslo?", tools=[WEATHER])
    calls = [item for item in response.output if item.type == "function_call"]
    results: list[Any] = [
        {
            "type": "function_call_output",
            "call_id": call.call_id,
            "output": f"sun in {json.loads(call.arguments)['city']}",
        }
        for call in calls
    ]
    names: list[str] = []
    stream = await ai.responses.create(
        model="talker", input=results, previous_response_id=response.id, tools=[WEATHER], stream=True
    )
    numbers = []
    async for event in stream:
        numbers.append(event.sequence_number)
        names.append(event.type)
        if event.type == "response.completed":
            answer = event.response
    # The same by sending back all items, as a client that keeps the conversation itself.
    again = await ai.responses.create(
        model="talker", store=False,
        input=[{"role": "user", "content": "How is the weather in Rome and Oslo?"}, *response.output, *results],
    )  # fmt: skip
    return {
        "calls": [[call.name, json.loads(call.arguments)] for call in calls],
        "answer": answer.output_text,
        "again": again.output_text,
        "in order": numbers == list(range(len(numbers))),
        "events": names,
        "streamed call": await streamed_call(ai),
    }


async def streamed_call(ai: openai.AsyncOpenAI) -> list[Any]:
    async with ai.responses.stream(model="talker", input="How is the weather in Rome?", tools=[WEATHER]) as stream:
        parts = [event.delta async for event in stream if event.type == "response.function_call_arguments.delta"]
        final = await stream.get_final_response()
    return [parts, [item.arguments for item in final.output if item.type == "function_call"]]


async def parsed(ai: openai.AsyncOpenAI) -> dict[str, Any]:
    whole = await ai.responses.parse(model="talker", input="Name a city as JSON.", text_format=City)
    async with ai.responses.stream(model="talker", input="Name a city as JSON.", text_format=City) as stream:
        final = await stream.get_final_response()
    return {"whole": whole.output_parsed.model_dump(), "streamed": final.output_parsed.model_dump()}


async def stored(ai: openai.AsyncOpenAI) -> dict[str, Any]:
    first = await ai.responses.create(model="talker", input="One")
    second = await ai.responses.create(model="talker", input="Two", previous_response_id=first.id)
    found = await ai.responses.retrieve(second.id)
    items = [item async for item in await ai.responses.input_items.list(second.id, limit=2, order="asc")]
    counted = await ai.responses.input_tokens.count(model="talker", input="Two", previous_response_id=first.id)
    await ai.responses.delete(first.id)
    unstored = await ai.responses.create(model="talker", input="Three", store=False)
    return {
        "same": found == second,
        "items": [[item.role, item.content[0].text] for item in items],
        "counted": counted.input_tokens,
        "deleted": await error_of(ai.responses.retrieve(first.id)),
        "after deletion": await error_of(
            ai.responses.create(model="talker", input="x", previous_response_id=second.id)
        ),
        "unstored": await error_of(ai.responses.create(model="talker", input="x", previous_response_id=unstored.id)),
        "cancel": await error_of(ai.responses.cancel(second.id)),
    }


async def logprobs(ai: openai.AsyncOpenAI) -> Any:
    response = await ai.responses.create(
        model="talker", input="Hi", include=["message.output_text.logprobs"], top_logprobs=2
    )
    return [token.model_dump() for token in response.output[-1].content[0].logprobs]


async def error_of(call: Any) -> list[Any]:
    try:
        await call
    except openai.APIStatusError as error:
        return [error.status_code, error.code, error.param]
    return []


async def main() -> None:
    async with openai.AsyncOpenAI(base_url=f"{ADDRESS}/v1", api_key=KEY, max_retries=0, timeout=20) as ai:
        parts = {"texts": texts, "tools": tools, "parsed": parsed, "stored": stored, "logprobs": logprobs}
        print(json.dumps({name: await part(ai) for name, part in parts.items()}))


asyncio.run(main())
