"""The package webuiapi, unmodified, against AUTOMATIC1111's API on a socket."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.http.api.test_sdapi_pictures import CATALOGUE
from tests.support.http.client_programs import run_program
from tests.support.http.front import front
from tests.support.http.http_front import finish_jobs, listening
from tests.support.http.picture_doors import accepted

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


async def test_webuiapi_makes_changes_repaints_enlarges_and_reads_pictures(tmp_path: Path) -> None:
    async with front(tmp_path, catalogue=CATALOGUE) as f, listening(f) as address:
        finish_jobs(f)
        requests = accepted(f)
        got = await run_program("automatic1111.py", address, f.keys["pro"], "retoucher", "edges")

    made, changed, painted = requests
    assert (made.seed, made.n, made.image) == (7, 2, None)
    assert (changed.strength, changed.mask, changed.fit) == (0.6, None, "stretch")
    assert painted.mask is not None
    assert [got[name] for name in ("made", "changed", "painted")] == [
        [["PNG", 64, 64]] * 2, [["PNG", 64, 64]], [["PNG", 64, 64]],
    ]  # fmt: skip
    assert (got["controlled"], got["refused"]) == (None, 400), "this ControlNet fits no model"
    assert (got["larger"], got["several"]) == ([["PNG", 96, 96]], [["PNG", 128, 128]] * 2)
    assert got["seeds"] == [[7, 8], 8]
    assert got["ignored"] == [["eta", "sampler_name"]] * 2 + [["eta", "inpaint_full_res", "sampler_name"]]
    assert (got["prompt"], got["negative"], got["idle"]) == ("a city", "people", 0)
    assert (got["current"], got["controlnets"]) == ("retoucher", ["edges", "faces"])
    assert (got["upscalers"], got["modules"][1]) == (["None", "Lanczos", "Nearest", "esrgan"], "canny")
