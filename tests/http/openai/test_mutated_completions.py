"""1,000 mutations of bodies of completions: never a 500, never a hang, every refusal in shape."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.http.openai.test_mutated_bodies import fault_of
from tests.support.http.front import front
from tests.support.http.mutations import mutated

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

N_MUTATIONS = 1000
MAX_BYTES = 200_000
LIMIT_S = 10.0  # of one request, on a machine that is busy with other tests

EVERYTHING: dict[str, Any] = {
    "model": "talker", "prompt": ["Once upon", "a time"], "stream": True, "stream_options": {"include_usage": True},
    "max_tokens": 9, "min_tokens": 1, "temperature": 0.5, "top_p": 0.9, "top_k": 5, "min_p": 0.1, "do_sample": True,
    "seed": 3, "stop": ["END", "\n"], "stop_token_ids": [4], "ignore_eos": False, "repetition_penalty": 1.1,
    "presence_penalty": 0.5, "frequency_penalty": 0.5, "logit_bias": {"6": 2}, "n": 2, "best_of": 2, "echo": True,
    "logprobs": 3, "add_special_tokens": True, "suffix": None, "user": "anna",
}  # fmt: skip
# What lm-eval 0.4.13 sends.
SCORING: dict[str, Any] = {
    "model": "talker", "prompt": [[97, 98, 99], [100, 101]], "temperature": 0, "max_tokens": 1, "logprobs": 1,
    "seed": 1234, "echo": True,
}  # fmt: skip
PLAIN: dict[str, Any] = {"prompt": "Once", "max_tokens": 0, "prompt_logprobs": 1, "guided_choice": ["a", "b"]}


async def test_mutated_bodies_are_answered_or_refused_in_shape(tmp_path: Path) -> None:
    random = Random(14)
    statuses: Counter[int] = Counter()
    async with front(tmp_path) as f:
        for number in range(N_MUTATIONS):
            content = mutated(random.choice([EVERYTHING, SCORING, PLAIN]), random, MAX_BYTES)
            try:
                async with asyncio.timeout(LIMIT_S):
                    reply = await f.post("/v1/completions", content)
            except TimeoutError:
                pytest.fail(f"mutation {number} hangs: {content[:2000]!r}")
            fault = fault_of(reply)
            assert fault is None, f"mutation {number}: {fault}: {reply.text[:500]} to {content[:2000]!r}"
            statuses[reply.status_code] += 1
            f.engine.jobs.clear()

    assert min(statuses[200], statuses[400]) > N_MUTATIONS / 8, statuses  # mutations that show something
