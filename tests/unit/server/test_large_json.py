"""Large JSON replies are those that `JSONResponse` makes, without keeping other threads from running."""

from __future__ import annotations

import json
import threading
import time
from typing import Any

import pytest
from starlette.responses import JSONResponse

from server.api.shared.large_json import large_json


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"a": [], "b": {}, "c": None, "d": 'ü\n"', "e": [1, 2.5, -1e-9], "f": [[0.1, 2], []]},
        {"data": [{"embedding": [0.1, 0.2], "index": 0}, {"embedding": "x"}], "usage": {"n": 1}},
        {"choices": [{"logprobs": {"top_logprobs": [None, {"a": -1.0}], "tokens": ["ü", "b"]}}]},
        {"a": [{"b": [{"c": [{"d": [{"e": [{"f": [[1]]}]}]}]}]}]},
    ],
)
def test_the_bytes_are_those_of_a_usual_reply(body: Any) -> None:
    assert large_json(body, {"x-a": "b"}).body == JSONResponse(body).body
    assert large_json(body, {"x-a": "b"}).headers["x-a"] == "b"


@pytest.mark.slow
@pytest.mark.parametrize(
    "body",
    [
        {"data": [{"embedding": [0.123456789] * 1000} for _ in range(2000)]},
        {"choices": [{"logprobs": {"top_logprobs": [None, *[{str(i): -0.123456 for i in range(20)}] * 50_000]}}]},
    ],
    ids=["embeddings", "log probabilities"],
)
def test_other_threads_run_while_a_reply_is_written(body: Any) -> None:
    before = time.perf_counter()
    json.dumps(body)
    at_once = time.perf_counter() - before
    writing = threading.Thread(target=large_json, args=(body,))
    longest, last = 0.0, time.perf_counter()
    writing.start()
    while writing.is_alive():
        time.sleep(0.001)
        now = time.perf_counter()
        longest, last = max(longest, now - last), now

    assert longest < at_once / 4
