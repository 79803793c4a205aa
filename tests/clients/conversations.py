"""Each Python client holds a conversation of six turns, whole and then streamed, and sends back what it made of each
reply. Prints the last reply of each as JSON: {"CLIENT, WAY": {text, thinking}}; null for thinking that it drops.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import instructor
import litellm
import openai
from langchain_openai import ChatOpenAI
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

URL, KEY = f"{sys.argv[1]}/v1", sys.argv[2]
QUESTIONS = [f"Question {n} 👋" for n in range(1, 7)]
SYSTEM = "Be brief."
Last = tuple[str, str | None]


def client() -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=URL, api_key=KEY, max_retries=0)


async def openai_python(streamed: bool) -> Last:
    messages: list[Any] = [{"role": "system", "content": SYSTEM}]
    async with client() as ai:
        for question in QUESTIONS:
            messages.append({"role": "user", "content": question})
            if streamed:
                async with ai.chat.completions.stream(model="talker", messages=messages) as stream:
                    completion: Any = await stream.get_final_completion()
            else:
                completion = await ai.chat.completions.create(model="talker", messages=messages)
            messages.append(completion.choices[0].message.model_dump())
    return messages[-1]["content"], messages[-1]["reasoning_content"]


async def langchain(streamed: bool) -> Last:
    messages: list[Any] = [("system", SYSTEM)]
    model = ChatOpenAI(base_url=URL, api_key=KEY, model="talker", temperature=0, max_retries=0)
    for question in QUESTIONS:
        messages.append(("human", question))
        if streamed:
            reply: Any = None
            async for piece in model.astream(messages):
                reply = piece if reply is None else reply + piece
        else:
            reply = await model.ainvoke(messages)
        messages.append(reply)
    return messages[-1].content, None


async def of_litellm(streamed: bool) -> Last:
    messages: list[Any] = [{"role": "system", "content": SYSTEM}]
    for question in QUESTIONS:
        messages.append({"role": "user", "content": question})
        completion = await litellm.acompletion(
            "openai/talker", messages, api_base=URL, api_key=KEY, num_retries=0, stream=streamed
        )
        if streamed:
            completion = litellm.stream_chunk_builder([chunk async for chunk in completion], messages=messages)
        messages.append(completion.choices[0].message)
    return messages[-1].content, messages[-1].reasoning_content


async def of_instructor(streamed: bool) -> Last:
    messages: list[Any] = [{"role": "system", "content": SYSTEM}]
    async with client() as plain:
        ai = instructor.from_openai(plain)
        for question in QUESTIONS:
            messages.append({"role": "user", "content": question})
            completion = await ai.chat.completions.create(
                model="talker", messages=messages, response_model=None, stream=streamed
            )
            if streamed:
                pieces = [chunk.choices[0].delta.content or "" async for chunk in completion if chunk.choices]
                messages.append({"role": "assistant", "content": "".join(pieces)})
            else:
                messages.append(completion.choices[0].message.model_dump())  # the library takes nothing else
    return messages[-1]["content"], None


async def pydantic_ai(streamed: bool) -> Last:
    history: list[Any] = []
    async with client() as ai:
        agent = Agent(OpenAIChatModel("talker", provider=OpenAIProvider(openai_client=ai)), system_prompt=SYSTEM)
        for question in QUESTIONS:
            if streamed:
                async with agent.run_stream(question, message_history=history) as result:
                    output = await result.get_output()
                    history = result.all_messages()
            else:
                run = await agent.run(question, message_history=history)
                output, history = run.output, run.all_messages()
    thoughts = [part.content for part in history[-1].parts if part.part_kind == "thinking"]
    return output, "".join(thoughts)


CLIENTS: dict[str, Callable[[bool], Awaitable[Last]]] = {
    "openai-python": openai_python,
    "langchain": langchain,
    "litellm": of_litellm,
    "instructor": of_instructor,
    "pydantic-ai": pydantic_ai,
}


async def main() -> None:
    last = {}
    for name, hold in CLIENTS.items():
        for way in ("whole", "streamed"):
            text, thinking = await hold(way == "streamed")
            last[f"{name}, {way}"] = {"text": text, "thinking": thinking}
    print(json.dumps(last))


asyncio.run(main())
