"""Libraries that speak the Responses API: LangChain, pydantic-ai, LiteLLM. Prints what they got as JSON."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import litellm
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider

ADDRESS, KEY = sys.argv[1:3]
URL = f"{ADDRESS}/v1"
QUESTION = "How is the weather in Rome?"


class City(BaseModel):
    """A city."""

    name: str
    people: int


@tool
def weather(city: str) -> str:
    """Says the weather of a city."""
    return f"sun in {city}"


async def langchain() -> dict[str, Any]:
    model = ChatOpenAI(base_url=URL, api_key=KEY, model="talker", max_retries=0, use_responses_api=True)
    whole = await model.ainvoke([("system", "Be brief."), ("human", "Hi")])
    pieces = [piece async for piece in model.astream("Hi")]
    with_tools = model.bind_tools([weather])
    messages: list[Any] = [HumanMessage(QUESTION)]
    messages.append(await with_tools.ainvoke(messages))
    calls = messages[-1].tool_calls
    messages += [ToolMessage(weather.invoke(call["args"]), tool_call_id=call["id"]) for call in calls]
    answer = await with_tools.ainvoke(messages)
    kept = ChatOpenAI(
        base_url=URL, api_key=KEY, model="talker", max_retries=0, use_responses_api=True, use_previous_response_id=True
    )
    first = await kept.ainvoke("One")
    second = await kept.ainvoke([HumanMessage("One"), first, HumanMessage("Two")])
    city = await model.with_structured_output(City, method="json_schema").ainvoke("Name a city as JSON.")
    return {
        "whole": whole.text,
        "tokens": whole.usage_metadata["total_tokens"],
        "streamed": "".join(piece.text for piece in pieces),
        "calls": [[call["name"], call["args"]] for call in calls],
        "answer": answer.text,
        "kept": [first.text, second.text],
        "city": city.model_dump(),
    }


async def pydantic_ai() -> dict[str, Any]:
    model = OpenAIResponsesModel("talker", provider=OpenAIProvider(base_url=URL, api_key=KEY))
    plain = Agent(model, system_prompt="Be brief.")
    whole = await plain.run("Hi")
    async with plain.run_stream("Hi", message_history=whole.all_messages()) as run:
        streamed = await run.get_output()
    agent = Agent(model)
    agent.tool_plain(lambda city: f"sun in {city}", name="weather", description="Says the weather of a city.")
    answer = await agent.run(QUESTION)
    city = await Agent(model, output_type=City).run("Name a city by its tool.")
    return {"whole": whole.output, "streamed": streamed, "answer": answer.output, "city": city.output.model_dump()}


async def of_litellm() -> dict[str, Any]:
    options: dict[str, Any] = {"model": "openai/talker", "api_base": URL, "api_key": KEY}
    whole = await litellm.aresponses(input="Hi", instructions="Be brief.", **options)
    stream = await litellm.aresponses(input="Hi", stream=True, **options)
    deltas = [event.delta async for event in stream if event.type == "response.output_text.delta"]
    return {"whole": whole.output[-1].content[0].text, "tokens": whole.usage.total_tokens, "streamed": "".join(deltas)}


async def main() -> None:
    parts = {"langchain": langchain, "pydantic-ai": pydantic_ai, "litellm": of_litellm}
    print(json.dumps({name: await part() for name, part in parts.items()}))


asyncio.run(main())
