"""LangChain: bound tools, agents with a loop over tools, and structured output by each of its methods."""

from __future__ import annotations

from typing import Any

from asked import Asked, Weather, get_weather
from langchain.agents import create_agent
from langchain.agents.structured_output import ProviderStrategy, ToolStrategy
from langchain_openai import ChatOpenAI


def chat(asked: Asked) -> ChatOpenAI:
    return ChatOpenAI(base_url=asked.url, api_key=asked.key, model=asked.model, max_retries=0)


async def bound_tool(asked: Asked) -> Any:
    model = chat(asked).bind_tools([get_weather], tool_choice="any", parallel_tool_calls=False)
    message = await model.ainvoke(asked.question)
    return message.tool_calls[0]["args"]


async def bound_tool_streamed(asked: Asked) -> Any:
    model = chat(asked).bind_tools([get_weather], tool_choice="get_weather")
    whole: Any = None
    async for piece in model.astream(asked.question):
        whole = piece if whole is None else whole + piece
    return whole.tool_calls[0]["args"]


async def agent(asked: Asked) -> Any:
    state = await create_agent(chat(asked), [get_weather]).ainvoke({"messages": asked.messages})
    return [message.content for message in state["messages"][1:]]


async def agent_streamed(asked: Asked) -> Any:
    """Returns the text of all pieces that the model and the tool have sent."""
    made = create_agent(chat(asked), [get_weather])
    pieces = [piece async for piece, _ in made.astream({"messages": asked.messages}, stream_mode="messages")]
    return "".join(piece.content for piece in pieces)


async def agent_with_output_by_tool(asked: Asked) -> Any:
    made = create_agent(chat(asked), [get_weather], response_format=ToolStrategy(Weather))
    return (await made.ainvoke({"messages": asked.messages}))["structured_response"]


async def agent_with_output_by_schema(asked: Asked) -> Any:
    made = create_agent(chat(asked), [get_weather], response_format=ProviderStrategy(Weather))
    return (await made.ainvoke({"messages": asked.messages}))["structured_response"]


async def output_by_json_schema(asked: Asked) -> Any:
    return await chat(asked).with_structured_output(Weather, method="json_schema").ainvoke(asked.question)


async def output_by_function_calling(asked: Asked) -> Any:
    return await chat(asked).with_structured_output(Weather, method="function_calling").ainvoke(asked.question)


async def output_by_json_mode(asked: Asked) -> Any:
    model = chat(asked).with_structured_output(Weather, method="json_mode")
    return await model.ainvoke(f"{asked.question} Answer in JSON.")


async def output_streamed(asked: Asked) -> Any:
    model = chat(asked).with_structured_output(Weather.model_json_schema(), method="json_schema")
    return [piece async for piece in model.astream(asked.question)][-1]


CHECKS = (
    bound_tool, bound_tool_streamed, agent, agent_streamed, agent_with_output_by_tool, agent_with_output_by_schema,
    output_by_json_schema, output_by_function_calling, output_by_json_mode, output_streamed,
)  # fmt: skip
