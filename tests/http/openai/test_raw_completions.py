"""POST /v1/completions: texts and tokens that a model goes on with."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from pipelines.chat_interface import PromptTooLong
from server.service import chat
from tests.support.http.completions import PATH, answers, complete
from tests.support.http.front import Front, front

pytestmark = pytest.mark.anyio


async def submitted(f: Front, n_jobs: int) -> None:
    """Waits until the engine has that many jobs."""
    while len(f.engine.jobs) < n_jobs:
        await f.engine.submitted.wait()
        f.engine.submitted.clear()


async def refused(f: Front, **body: Any) -> Any:
    reply = await f.post(PATH, body)
    assert reply.status_code == 400, reply.text
    return reply.json()["error"]


async def test_a_text_is_gone_on_with_as_it_is(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        asked = answers(f)
        reply = await complete(f, prompt="Once upon<|im_end|>", system_fingerprint=None)

    assert f.prompt_reader.raw[0].text == "Once upon<|im_end|>"
    assert f.prompt_reader.messages == [], "no template and no system prompt"
    assert (asked[0].prompt.raw, asked[0].max_tokens, asked[0].n_logprobs, asked[0].n_prompt_logprobs) == (
        True, 16, None, None,
    )  # fmt: skip
    assert reply["id"].startswith("cmpl-")
    assert (reply["object"], reply["model"]) == ("text_completion", "talker")
    assert reply["choices"] == [{"index": 0, "text": " on", "logprobs": None, "finish_reason": "stop"}]
    assert reply["usage"]["prompt_tokens"] == len("Once upon<|im_end|>")
    assert reply["usage"]["total_tokens"] == len("Once upon<|im_end|>") + 3


async def test_all_fields_reach_the_engine(tmp_path: Path) -> None:
    sampling = {"temperature": 0.5, "top_p": 0.9, "top_k": 5, "min_p": 0.1, "repetition_penalty": 1.1}
    penalties = {"presence_penalty": 0.5, "frequency_penalty": -0.5}
    further = {"stop": ["END"], "stop_token_ids": [4], "ignore_eos": True, "logit_bias": {"6": 2}, "logprobs": 3}
    async with front(tmp_path) as f:
        asked = answers(f)
        noted = {"user": "anna", "best_of": 2, "suffix": "", "min_tokens": 1, "add_special_tokens": False}
        await complete(f, prompt="x", n=2, seed=5, max_tokens=9, **sampling, **penalties, **further, **noted)

    assert [request.seed for request in asked] == [5, 6]
    for name, value in (sampling | penalties).items():
        assert getattr(asked[0], name) == value
    assert (asked[0].stop, asked[0].stop_tokens, asked[0].ignores_end) == (("END",), (4,), True)
    assert (asked[0].logit_bias, asked[0].n_logprobs, asked[0].n_prompt_logprobs) == (((6, 2.0),), 3, None)
    assert (asked[0].max_tokens, asked[0].min_tokens) == (9, 1)
    assert not f.prompt_reader.raw[0].adds_special_tokens


@pytest.mark.parametrize(
    ("prompt", "texts"),
    [
        ("ab", ["ab"]),
        (["ab", "c"], ["ab", "c"]),
        ([97, 98.0], [(97, 98)]),
        ([[97, 98], [99]], [(97, 98), (99,)]),
        ("", [""]),
    ],
)
async def test_a_prompt_is_a_text_or_tokens_or_a_list_of_either(tmp_path: Path, prompt: Any, texts: list[Any]) -> None:
    async with front(tmp_path) as f:
        answers(f)
        await complete(f, prompt=prompt)
        assert [raw.text for raw in f.prompt_reader.raw] == texts


async def test_several_prompts_have_choices_in_their_order_and_each_costs_a_message(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        asked = answers(f, ["0", "1", "2", "3"])
        reply = await f.post(PATH, {"prompt": ["abc", "defgh"], "n": 2, "echo": True, "seed": 7}, "free")
        assert await f.used("chats") == 4

    choices = reply.json()["choices"]
    assert [(choice["index"], choice["text"]) for choice in choices] == [
        (0, "abc0"), (1, "abc1"), (2, "defgh2"), (3, "defgh3"),
    ]  # fmt: skip
    assert [request.seed for request in asked] == [7, 8, 7, 8]
    usage = reply.json()["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (3 + 5, 4)


@pytest.mark.parametrize(
    ("body", "field", "words"),
    [
        ({"prompt": "x", "suffix": "y"}, "suffix", "fill in the middle is not supported"),
        ({"prompt": "x", "best_of": 2}, "best_of", "same number as n"),
        ({"prompt": "x", "n": 2, "best_of": 1}, "best_of", "same number as n"),
        ({}, "prompt", "required"),
        ({"prompt": None}, "prompt", "required"),
        *[
            ({"prompt": wrong}, "prompt", "prompt must be a text, a list of token ids")
            for wrong in ([], [[]], [["a"]], ["a", 1], [1, "a"], [1, True], [1.5], [-1], [2**31], 5, {}, [[1], ""])
        ],
        ({"prompt": ["a"] * 129}, "prompt", "1 to 128"),
        ({"prompt": ["a"] * 65, "n": 2}, "n", "at most 128"),
        ({"prompt": "x", "max_tokens": -2}, "max_tokens", "at least 0, or -1"),
        ({"prompt": "x", "logprobs": 21}, "logprobs", "from 0 to 20"),
        ({"prompt": "x", "logprobs": True}, "logprobs", "from 0 to 20"),
        ({"prompt": "x", "stream": True, "prompt_logprobs": 0}, "prompt_logprobs", "not supported in a stream"),
        ({"prompt": "x", "messages": [{"role": "user", "content": "x"}]}, "messages", "/v1/chat/completions"),
        ({"prompt": "x", "tools": [{"type": "function"}]}, "tools", "not supported"),
        ({"prompt": "x", "enable_thinking": True}, "enable_thinking", "not supported"),
        ({"prompt": "x", "unheard_of": 1}, "unheard_of", "Unknown field"),
    ],
)  # fmt: skip
async def test_what_is_not_done_is_refused_by_name(tmp_path: Path, body: Any, field: str, words: str) -> None:
    async with front(tmp_path) as f:
        asked = answers(f)
        error = await refused(f, **body)

    assert asked == []
    assert error["param"] == field
    assert words in error["message"]
    assert len(error["message"]) < 600


async def test_a_reply_may_have_to_follow_a_grammar(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        answers(f)
        await complete(f, prompt=["a", "b"], guided_choice=["yes", "no"])

    assert [(raw.grammar and raw.grammar.kind) for raw in f.prompt_reader.raw] == ["choice", "choice"]


async def test_no_limit_is_as_many_tokens_as_the_model_allows_and_false_asks_for_nothing(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        asked = answers(f)
        body = {"logprobs": False, "prompt_logprobs": False, "enable_thinking": False, "tools": []}
        reply = await complete(f, prompt="x", max_tokens=-1, **body)

    assert (asked[0].max_tokens, asked[0].n_logprobs) == (64, None), "the default of the model"
    assert "prompt_logprobs" not in reply["choices"][0]


async def test_a_prompt_that_is_too_long_is_refused_and_not_charged(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        f.prompt_reader.error = PromptTooLong(70_000, 65_536, field="prompt[1]")
        error = await refused(f, prompt=["a", "b"])

    assert (error["code"], error["param"]) == ("context_length_exceeded", "prompt[1]")
    assert "70000" in error["message"]


async def test_a_client_that_leaves_ends_all_replies(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        f.engine.reply = None
        request = asyncio.create_task(f.post(PATH, {"prompt": ["a", "b", "c"]}))
        await submitted(f, 3)
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request

        assert set(f.engine.canceled) == set(f.engine.jobs)


async def test_one_reply_that_fails_fails_the_request_and_ends_the_others(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        f.engine.reply = None
        request = asyncio.create_task(f.post(PATH, {"prompt": ["a", "b"]}))
        await submitted(f, 2)
        first, second = f.engine.jobs
        f.engine.fail(second, "bad_request", "The prompt has a token that this model was not trained with.")
        reply = await request

        assert reply.status_code == 400
        assert first in f.engine.canceled


async def test_a_body_may_have_16_mib(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        answers(f)
        large = json.dumps({"prompt": [list(range(97, 120)) * 2000] * 20, "max_tokens": 0})
        assert len(large) > 2**21
        reply = await f.post(PATH, json.loads(large))
        too_large: httpx.Response = await f.post(PATH, {"prompt": "x" * (17 << 20)})

    assert reply.status_code == 200
    assert too_large.status_code == 413


async def test_the_log_probabilities_of_prompts_are_bounded_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat, "MAX_SCORES", 60)
    body = {"prompt": ["abcde", "fghij"], "echo": True, "max_tokens": 0}
    async with front(tmp_path) as f:
        statuses = [
            (await f.post(PATH, {**body, **more}, "free")).status_code
            for more in ({"logprobs": 5}, {"logprobs": 6}, {"logprobs": 2, "n": 2}, {"logprobs": 3, "n": 2}, {})
        ]
        await f.settle()
        charged = await f.used("chats")

    assert statuses == [200, 400, 200, 400, 200]
    assert charged == 2 + 4 + 2
