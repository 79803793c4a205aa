"""pydantic-ai: an agent with a tool, and output by a tool, by the server's own schema and by a prompt."""

from __future__ import annotations

from typing import Any

from asked import Asked, Weather, get_weather
from pydantic_ai import Agent, NativeOutput, PromptedOutput, ToolOutput
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider


def agent(asked: Asked, **options: Any) -> Agent[None, Any]:
    model = OpenAIChatModel(asked.model, provider=OpenAIProvider(base_url=asked.url, api_key=asked.key))
    return Agent(model, **options)


async def run(asked: Asked, **options: Any) -> Any:
    return (await agent(asked, **options).run(asked.question)).output


async def run_streamed(asked: Asked, **options: Any) -> Any:
    async with agent(asked, **options).run_stream(asked.question) as result:
        return await result.get_output()


async def tool(asked: Asked) -> Any:
    return await run(asked, tools=[get_weather])


async def tool_streamed(asked: Asked) -> Any:
    return await run_streamed(asked, tools=[get_weather])


async def output_by_tool(asked: Asked) -> Any:
    return await run(asked, output_type=ToolOutput(Weather), model_settings={"parallel_tool_calls": False})


async def output_by_tool_streamed(asked: Asked) -> Any:
    return await run_streamed(asked, tools=[get_weather], output_type=ToolOutput(Weather))


async def output_native(asked: Asked) -> Any:
    return await run(asked, output_type=NativeOutput(Weather))


async def output_native_streamed(asked: Asked) -> Any:
    return await run_streamed(asked, tools=[get_weather], output_type=NativeOutput(Weather))


async def output_prompted(asked: Asked) -> Any:
    return await run(asked, output_type=PromptedOutput(Weather))


CHECKS = (
    tool, tool_streamed, output_by_tool, output_by_tool_streamed, output_native, output_native_streamed,
    output_prompted,
)  # fmt: skip
