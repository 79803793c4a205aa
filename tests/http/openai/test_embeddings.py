"""POST /v1/embeddings: inputs and outputs in all their forms, limits, and errors in OpenAI's shape."""

from __future__ import annotations

import asyncio
import base64
import json
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import httpx
import numpy as np
import pytest

from pipelines.embedding_interface import EmbeddingRequest
from server.protocol import JobFailed
from tests.fakes import vector_of, with_embedder
from tests.support.http.front import Front, front
from tests.support.http.mutations import fault_of_refusal, mutated

pytestmark = pytest.mark.anyio

URL = "/v1/embeddings"


def embedding_front(tmp_path: Path, **options: Any) -> Any:
    return front(tmp_path, catalogue=with_embedder(), **options)


def expected(*texts: str | list[int]) -> list[list[float]]:
    """The vectors of texts, as float32."""
    tokens = [[ord(c) for c in text] if isinstance(text, str) else text for text in texts]
    return [[float(value) for value in np.float32(vector_of(each))] for each in tokens]


async def request_for(f: Front, body: dict[str, Any]) -> EmbeddingRequest:
    """The request that a body made for the engine."""
    f.engine.jobs.clear()
    reply = await f.post(URL, body)
    assert reply.status_code == 200, reply.text
    (job,) = f.engine.jobs.values()
    (request,) = job.requests
    assert isinstance(request, EmbeddingRequest)
    assert (job.type, job.id[:6], job.owner) == ("embedding", "embed_", request.owner)
    return request


async def test_a_text_gets_a_vector_and_its_tokens_are_counted(tmp_path: Path) -> None:
    async with embedding_front(tmp_path) as f:
        reply = await f.post(URL, {"model": "embedder", "input": "Hello"})

    assert reply.json() == {
        "object": "list",
        "data": [{"object": "embedding", "index": 0, "embedding": expected("Hello")[0]}],
        "model": "embedder",
        "usage": {"prompt_tokens": 5, "total_tokens": 5},
    }
    assert not [name for name in reply.headers if "ratelimit" in name], "plans do not count embeddings"


@pytest.mark.parametrize(
    ("given", "inputs"),
    [
        ("ab", ["ab"]),
        (["ab", "c"], ["ab", "c"]),
        ([5, 6, 7], [[5, 6, 7]]),
        ([5.0], [[5]]),
        ([[5, 6], [7]], [[5, 6], [7]]),
    ],
)
async def test_texts_and_tokens_may_be_given_alone_and_in_lists(tmp_path: Path, given: Any, inputs: Any) -> None:
    async with embedding_front(tmp_path) as f:
        reply = (await f.post(URL, {"input": given})).json()

    assert [entry["embedding"] for entry in reply["data"]] == expected(*inputs)
    assert [entry["index"] for entry in reply["data"]] == [*range(len(inputs))]


async def test_base64_holds_float32_with_the_lowest_byte_first(tmp_path: Path) -> None:
    async with embedding_front(tmp_path) as f:
        reply = await f.post(URL, {"input": ["Hello", "you"], "encoding_format": "base64"})

    vectors = [np.frombuffer(base64.b64decode(entry["embedding"]), "<f4") for entry in reply.json()["data"]]
    assert [vector.tolist() for vector in vectors] == expected("Hello", "you")


async def test_fields_reach_the_engine(tmp_path: Path) -> None:
    async with embedding_front(tmp_path) as f:
        plain = await request_for(f, {"input": "ab", "user": "anna"})
        asked = await request_for(f, {"input": "ab", "dimensions": 2, "normalize": False})
        cut = await request_for(f, {"input": "x" * 200, "truncate": True})
        also_cut = await request_for(f, {"input": "x" * 200, "truncate_prompt_tokens": -1})

    assert (plain.dimensions, plain.normalize, plain.n_tokens) == (None, None, 2)
    assert (asked.dimensions, asked.normalize) == (2, False)
    assert cut.n_tokens == also_cut.n_tokens == 100


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        ({}, "input", "input"),
        ({"input": ""}, "input", "must not be empty"),
        ({"input": []}, "input", "a list of 1 to 2048 texts"),
        ({"input": ["a", 5]}, "input", "a list of 1 to 2048 texts"),
        ({"input": [5, "a"]}, "input", "a list of 1 to 2048 texts"),
        ({"input": [[]]}, "input", "a list of 1 to 2048 texts"),
        ({"input": [-1]}, "input", "a list of 1 to 2048 texts"),
        ({"input": [True]}, "input", "a list of 1 to 2048 texts"),
        ({"input": ["a"] * 2049}, "input", "a list of 1 to 2048 texts"),
        ({"input": "\ud800"}, "input", "surrogate"),
        ({"input": "a", "encoding_format": "int8"}, "encoding_format", "float, the default, or base64"),
        ({"input": "a", "dimensions": 5}, "dimensions", "from 1 to 4"),
        ({"input": "a", "dimensions": 0}, "dimensions", "from 1"),
        ({"input": "a", "prompt": "x"}, None, "prompt"),
        ({"input": [5], "prompt_name": "query"}, "prompt_name", "for texts"),
        ({"input": "a", "prompt_name": "query", "input_type": "query"}, "input_type", "one of them"),
        ({"input": "x" * 101}, "input", "at most 100"),
    ],
)
async def test_what_cannot_be_done_is_refused_by_name(
    tmp_path: Path, body: dict[str, Any], param: str | None, words: str
) -> None:
    async with embedding_front(tmp_path) as f:
        reply = await f.post(URL, json.dumps(body).encode())

    assert reply.status_code == 400, reply.text
    assert words in reply.json()["error"]["message"]
    if param is not None:
        assert reply.json()["error"]["param"] == param


async def test_more_than_300000_tokens_are_refused(tmp_path: Path) -> None:
    async with embedding_front(tmp_path) as f:
        few = await f.post(URL, {"input": ["x" * 100] * 2048})
        object.__setattr__(f.service.catalogue.get("embedder").limits, "context_tokens", 1000)
        many = await f.post(URL, {"input": ["x" * 200] * 1501})

    assert few.status_code == 200
    assert (many.status_code, "more than 300000 tokens" in many.json()["error"]["message"]) == (400, True)


async def test_a_model_of_another_type_is_refused_with_those_that_can(tmp_path: Path) -> None:
    async with embedding_front(tmp_path) as f:
        talker = await f.post(URL, {"model": "talker", "input": "a"})
        unknown = await f.post(URL, {"model": "nobody", "input": "a"})
        chat = await f.post(
            "/v1/chat/completions", {"model": "embedder", "messages": [{"role": "user", "content": "a"}]}
        )
    async with front(tmp_path / "without") as f:
        none = await f.post(URL, {"input": "a"})

    error = talker.json()["error"]
    assert (talker.status_code, error["param"]) == (400, "model")
    assert "talker is for chat, not for embedding. Models for embedding here: embedder." in error["message"]
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "model_not_found")
    assert "Models for chat here: talker." in chat.json()["error"]["message"]
    assert (none.status_code, "no embedding model" in none.json()["error"]["message"]) == (404, True)


async def test_a_failed_job_is_an_error_in_openais_shape(tmp_path: Path) -> None:
    statuses = {}
    async with embedding_front(tmp_path) as f:
        f.engine.embeds = False
        for code in ("model_load_failed", "model_error", "context_overflow"):
            posting = asyncio.ensure_future(f.post(URL, {"input": "a"}))
            await f.engine.submitted.wait()
            f.engine.submitted.clear()
            (job_id,) = f.engine.jobs
            f.engine.jobs.clear()
            f.engine.deliver(JobFailed(job_id, code, "It failed.", True))  # type: ignore[arg-type]  # one of the codes
            reply = await posting
            statuses[code] = reply.status_code
            assert reply.json()["error"].keys() == {"message", "type", "param", "code"}

    assert statuses == {"model_load_failed": 502, "model_error": 500, "context_overflow": 400}


async def test_a_key_has_only_so_many_requests_at_once(tmp_path: Path) -> None:
    async with embedding_front(tmp_path, max_queued_per_key=1) as f:
        f.engine.embeds = False
        waiting = asyncio.ensure_future(f.post(URL, {"input": "a"}))
        await f.engine.submitted.wait()
        refused = await f.post(URL, {"input": "a"})
        queue = (await f.get("/api/queue")).json()
        metrics = (await f.get("/metrics", "admin")).text
        waiting.cancel()

    assert refused.status_code == 429
    assert "maximum for this key" in refused.json()["error"]["message"]
    assert queue is not None
    assert 'agentname_running_jobs{type="embedding"}' in metrics


async def test_the_lists_of_models_tell_type_dimensions_and_longest_text(tmp_path: Path) -> None:
    async with embedding_front(tmp_path) as f:
        ours = {model["name"]: model for model in (await f.get("/api/models")).json()["models"]}
        openais = {model["id"]: model for model in (await f.get("/v1/models")).json()["data"]}

    embedder = ours["embedder"]
    assert (embedder["type"], embedder["default"], embedder["speeds"]) == ("embedding", True, [])
    assert embedder["embedding"] == {"dimensions": 4, "prompts": ["query"]}
    assert ours["talker"]["embedding"] is None
    assert openais["embedder"].items() >= {"type": "embedding", "dimensions": 4, "max_model_len": 100}.items()
    assert "type" not in openais["talker"]


@pytest.mark.slow
async def test_mutated_bodies_are_answered_or_refused_in_shape(tmp_path: Path) -> None:
    bodies = [
        {"model": "embedder", "input": "Hello", "encoding_format": "float", "dimensions": 3, "user": "anna"},
        {"input": ["a", "b"], "prompt_name": "query", "truncate": "end", "normalize": True},
        {"input": [[5, 6], [7]], "input_type": "document", "truncate_prompt_tokens": -1},
    ]
    random, statuses = Random(14), Counter[int]()
    async with embedding_front(tmp_path) as f:
        for number in range(2000):
            content = mutated(random.choice(bodies), random, 1_000_000)
            async with asyncio.timeout(10.0):
                reply = await f.post(URL, content)
            fault = fault_of(reply)
            assert fault is None, f"mutation {number}: {fault}: {reply.text[:500]} to {content[:2000]!r}"
            statuses[reply.status_code] += 1
            f.engine.jobs.clear()

    assert min(statuses[200], statuses[400]) > 300, statuses


def fault_of(reply: httpx.Response) -> str | None:
    if reply.status_code == 200:
        return None if reply.json()["data"] else "no vectors"
    return fault_of_refusal(reply)
