"""Unmodified clients that send pictures and clips to be changed, against the server on a socket."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from tests.support.http.client_programs import run_program
from tests.support.http.front import front
from tests.support.http.http_front import finish_jobs, listening
from tests.support.http.picture_doors import TAKING, accepted, picture

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

MODELS = ("retoucher", "follower", "reviser")
PICTURES = [base64.b64encode(each).decode() for each in (picture(64, 32), picture(64, 32, hole=True))]


async def test_the_python_libraries_send_pictures_and_clips(tmp_path: Path) -> None:
    async with front(tmp_path, catalogue=TAKING) as f, listening(f) as address:
        finish_jobs(f)
        requests = accepted(f)
        got = await run_program("pictures_in.py", address, f.keys["pro"], *MODELS, *PICTURES)

    edit, several, variation = requests[:3]
    assert (edit.n, edit.seed, edit.strength, edit.mask is not None) == (2, 7, 0.75, True)
    assert (len(several.images), variation.prompt) == (2, "")
    assert got["openai"] | {"edit size": None} == {
        "edit": ["PNG"] * 2, "edit size": None, "several": ["PNG"], "variation": ["PNG"], "variation size": "64x64",
    }  # fmt: skip
    assert (got["videos"]["remixed"], got["videos"]["clip"]) == (True, "ftyp")
    assert set(got["videos"]["sizes"]) == {"64x32"}
    assert got["litellm"] == {"edit": ["PNG"], "several": ["PNG"]}


async def test_the_node_clients_send_pictures_and_clips(tmp_path: Path) -> None:
    async with front(tmp_path, catalogue=TAKING) as f, listening(f) as address:
        finish_jobs(f)
        requests = accepted(f)
        printed = await run_program("pictures_in.mjs", address, f.keys["pro"], *MODELS, *PICTURES)

    assert printed == "ok"
    assert [len(request.media) for request in requests] == [2, 2, 1, 2, 1, 1, 1, 1, 1]
