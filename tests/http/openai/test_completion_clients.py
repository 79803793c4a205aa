"""OpenAI's own clients complete raw text, whole and in chunks, with an echo and log probabilities."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.http.client_programs import run_program
from tests.support.http.front import front
from tests.support.http.http_front import listening
from tests.support.http.obliging_engine import oblige

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

ECHOED = "The sea is and on"


async def test_openais_python_library(tmp_path: Path) -> None:
    async with front(tmp_path) as f, listening(f) as address:
        oblige(f)
        got = await run_program("openai_completions.py", address, f.keys["enterprise"], "talker")

    assert got["text"] == got["streamed text"] == ECHOED
    assert got["tokens"] == list("The sea is"), "the fake engine reports none of its reply"
    assert got["values"] == got["streamed values"] == [None, *[-1.0] * 9]
    assert got["likeliest"] == [None, *({each: -1.0} for each in "he sea is")]
    assert got["offsets"] == got["streamed offsets"] == list(range(10))
    assert got["usage"] == got["streamed usage"]
    assert got["several"] == [" and on"] * 4
    assert got["given tokens"] == [None, -1.0, -1.0]
    assert got["refused"][0] == "suffix"
    assert "fill in the middle is not supported" in got["refused"][1]


async def test_openais_library_for_node(tmp_path: Path) -> None:
    async with front(tmp_path) as f, listening(f) as address:
        oblige(f)
        got = await run_program("completions.mjs", address, f.keys["enterprise"], "talker")

    assert got == {"text": ECHOED, "streamed": ECHOED, "values": [None, *[-1.0] * 9]}
