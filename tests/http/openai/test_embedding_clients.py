"""Unmodified libraries embed texts through the server on a socket."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fakes import with_embedder
from tests.http.openai.test_embeddings import expected
from tests.support.http.client_programs import run_program
from tests.support.http.front import front
from tests.support.http.http_front import listening

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

BOTH, HELLO = expected("Hello", "you there"), expected("Hello")[0]


async def test_python_libraries_get_the_vectors(tmp_path: Path) -> None:
    async with front(tmp_path, catalogue=with_embedder()) as f, listening(f) as address:
        got = await run_program("embeddings.py", address, f.keys["pro"], "embedder")

    openai, langchain, litellm = (got[name] for name in ("openai", "langchain", "litellm"))
    assert (openai["usual"], openai["floats"]) == (BOTH, HELLO)
    assert openai["short"] == expected([72, 101])[0][:2]
    assert (openai["tokens"], openai["model"]) == (14, "embedder")
    assert openai["refused"].endswith(": input")
    assert (langchain["documents"], langchain["query"]) == (BOTH, HELLO)
    assert (litellm["vectors"], litellm["tokens"]) == (BOTH, 14)


async def test_node_libraries_get_the_vectors(tmp_path: Path) -> None:
    async with front(tmp_path, catalogue=with_embedder()) as f, listening(f) as address:
        got = await run_program("embeddings.mjs", address, f.keys["pro"], "embedder")

    assert (got["usual"], got["short"], got["tokens"]) == (BOTH, HELLO[:2], 14)
    assert (got["one"], got["many"], got["tokens of many"]) == (HELLO, BOTH, 14)
