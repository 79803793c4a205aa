"""POST /v1/completions: echoes and log probabilities of prompt and reply, whole and in chunks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.http.chats import chunks
from tests.support.http.completions import PATH, answers, complete
from tests.support.http.front import front

pytestmark = pytest.mark.anyio


async def test_an_echo_has_the_log_probabilities_of_prompt_and_reply_and_where_each_token_lies(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        asked = answers(f)
        reply = await complete(f, prompt="she", echo=True, logprobs=1)

    assert asked[0].n_prompt_logprobs == 1
    assert reply["choices"][0]["text"] == "she on"
    assert reply["choices"][0]["logprobs"] == {
        "tokens": ["s", "h", "e", " ", "o", "n"],
        "token_logprobs": [None, -1.0, -2.0, -0.25, -0.25, -0.25],
        "top_logprobs": [None, {"e": -0.5, "h": -1.0}, {"e": -0.5}, {" ": -0.25}, {"o": -0.25}, {"n": -0.25}],
        "text_offset": [0, 1, 2, 3, 4, 5],
    }


async def test_without_echo_places_count_from_the_beginning_of_the_reply(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        asked = answers(f)
        reply = await complete(f, prompt="she", logprobs=0)

    assert asked[0].n_prompt_logprobs is None
    logprobs = reply["choices"][0]["logprobs"]
    assert (logprobs["tokens"], logprobs["text_offset"]) == ([" ", "o", "n"], [0, 1, 2])
    assert logprobs["top_logprobs"] == [{" ": -0.25}, {"o": -0.25}, {"n": -0.25}]


async def test_scores_alone_take_no_token(tmp_path: Path) -> None:
    """What lm-eval and others send to measure a text."""
    async with front(tmp_path) as f:
        asked = answers(f)
        body = {"prompt": [[104, 105], [97]], "max_tokens": 0, "temperature": 0, "logprobs": 1, "echo": True}
        reply = await complete(f, **body)

    assert [request.max_tokens for request in asked] == [0, 0]
    assert [raw.n_reserved for raw in f.prompt_reader.raw] == [0, 0]
    assert [(choice["text"], choice["finish_reason"]) for choice in reply["choices"]] == [
        ("hi", "length"),
        ("a", "length"),
    ]
    assert [choice["logprobs"]["token_logprobs"] for choice in reply["choices"]] == [[None, -1.0], [None]]
    assert reply["usage"]["completion_tokens"] == 0


async def test_prompt_logprobs_have_the_shape_of_vllm(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        asked = answers(f)
        reply = await complete(f, prompt="she", prompt_logprobs=1)

    assert (asked[0].n_prompt_logprobs, asked[0].n_logprobs) == (1, None)
    assert reply["choices"][0]["logprobs"] is None
    best = {"101": {"logprob": -0.5, "rank": 1, "decoded_token": "e"}}
    assert reply["choices"][0]["prompt_logprobs"] == [
        None, best | {"104": {"logprob": -1.0, "rank": None, "decoded_token": "h"}}, best,
    ]  # fmt: skip


@pytest.mark.parametrize("body", [{}, {"echo": True}, {"logprobs": 1}, {"echo": True, "logprobs": 1}])
async def test_the_chunks_of_a_stream_make_the_whole_reply(tmp_path: Path, body: dict[str, Any]) -> None:
    body = {"prompt": ["she", "x"], "n": 2, **body}
    async with front(tmp_path) as f:
        answers(f, [" on", "", "!", "?"])
        whole = await complete(f, **body)
        answers(f, [" on", "", "!", "?"])
        streamed = chunks(await f.post(PATH, body | {"stream": True, "stream_options": {"include_usage": True}}))

    assert streamed.pop()["usage"] == whole["usage"]
    assert all(chunk["usage"] is None and chunk["object"] == "text_completion" for chunk in streamed)
    for choice in whole["choices"]:
        own = [c for chunk in streamed for c in chunk["choices"] if c["index"] == choice["index"]]
        assert "".join(c["text"] for c in own) == choice["text"]
        assert [c["finish_reason"] for c in own if c["finish_reason"]] == [choice["finish_reason"]]
        parts = [c["logprobs"] for c in own if c["logprobs"]]
        for name, values in (choice["logprobs"] or {}).items():
            assert [value for part in parts for value in part[name]] == values
        if "echo" in body:
            assert own[0]["text"] == "she" if choice["index"] < 2 else "x"
