"""OpenAI's Python library and its completions of raw text. Prints what it got as JSON."""

from __future__ import annotations

import json
import sys
from typing import Any

import openai

ADDRESS, KEY, MODEL = sys.argv[1:4]
SCORED: dict[str, Any] = {"model": MODEL, "prompt": "The sea is", "temperature": 0, "echo": True, "logprobs": 2}


def main() -> None:
    ai = openai.OpenAI(base_url=f"{ADDRESS}/v1", api_key=KEY, max_retries=0)
    whole = ai.completions.create(**SCORED, max_tokens=6)
    several = ai.completions.create(model=MODEL, prompt=["One", "Two"], n=2, max_tokens=3, temperature=0, seed=1)
    tokens = ai.completions.create(model=MODEL, prompt=[[97, 98, 99]], max_tokens=0, echo=True, logprobs=1)
    text, offsets, values, usage = "", [], [], None
    for chunk in ai.completions.create(**SCORED, max_tokens=6, stream=True, stream_options={"include_usage": True}):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            text += choice.text
            if choice.logprobs is not None:
                offsets += choice.logprobs.text_offset
                values += choice.logprobs.token_logprobs
    try:
        ai.completions.create(model=MODEL, prompt="def f(", suffix="return 1")
        refused = None
    except openai.BadRequestError as error:
        refused = [error.param, error.message]
    logprobs = whole.choices[0].logprobs
    print(
        json.dumps(
            {
                "text": whole.choices[0].text,
                "finish": whole.choices[0].finish_reason,
                "tokens": logprobs.tokens,
                "values": logprobs.token_logprobs,
                "likeliest": logprobs.top_logprobs,
                "offsets": logprobs.text_offset,
                "usage": whole.usage.model_dump(exclude_none=True),
                "several": [choice.text for choice in several.choices],
                "given tokens": tokens.choices[0].logprobs.token_logprobs,
                "streamed text": text,
                "streamed offsets": offsets,
                "streamed values": values,
                "streamed usage": usage.model_dump(exclude_none=True) if usage else None,
                "refused": refused,
            }
        )
    )


main()
