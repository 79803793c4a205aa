"""1,000 mutations of bodies of completions: never a 500, never a hang, every refusal in shape."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.http.openai.test_mutated_bodies import fault_of
from tests.support.http.front import front
from tests.support.http.mutated_requests import send_mutations

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

N_MUTATIONS = 1000

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
    async with front(tmp_path) as f:
        statuses = await send_mutations(f, ["/v1/completions"], [EVERYTHING, SCORING, PLAIN], N_MUTATIONS, fault_of)

    assert min(statuses[200], statuses[400]) > N_MUTATIONS / 8, statuses  # mutations that show something
