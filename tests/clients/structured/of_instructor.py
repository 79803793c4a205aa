"""instructor: a response model in each of its modes, and one that grows while it is streamed."""

from __future__ import annotations

from typing import Any

import instructor
import openai
from asked import Asked, Weather


async def ask(asked: Asked, mode: instructor.Mode) -> Any:
    async with openai.AsyncOpenAI(base_url=asked.url, api_key=asked.key, max_retries=0) as plain:
        ai = instructor.from_openai(plain, mode=mode)
        return await ai.chat.completions.create(
            model=asked.model, messages=asked.messages, response_model=Weather, max_retries=0
        )


async def tools(asked: Asked) -> Any:
    return await ask(asked, instructor.Mode.TOOLS)


async def json(asked: Asked) -> Any:
    return await ask(asked, instructor.Mode.JSON)


async def json_schema(asked: Asked) -> Any:
    return await ask(asked, instructor.Mode.JSON_SCHEMA)


async def partial(asked: Asked) -> Any:
    async with openai.AsyncOpenAI(base_url=asked.url, api_key=asked.key, max_retries=0) as plain:
        ai = instructor.from_openai(plain, mode=instructor.Mode.TOOLS)
        pieces = [
            piece
            async for piece in ai.chat.completions.create_partial(
                model=asked.model, messages=asked.messages, response_model=Weather, max_retries=0
            )
        ]
    return Weather.model_validate(pieces[-1].model_dump())


CHECKS = (tools, json, json_schema, partial)
