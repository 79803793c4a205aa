"""guidance_scale means the scale that guides the model, whatever its pipeline calls it; flagged outputs are marked."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from models.spec import Defaults
from pipelines.diffusion_interface import DiffusionRequest
from tests.fakes import FakeCatalogue, spec
from tests.support.http.front import IMAGE, front

pytestmark = pytest.mark.anyio
ARGUMENTS = frozenset({"prompt", "negative_prompt", "true_cfg_scale", "num_inference_steps"})


@pytest.mark.parametrize(
    ("call", "body", "scale", "rest"),
    [
        ({}, {}, 4.0, {}),
        ({}, {"guidance_scale": 2.5}, 2.5, {}),
        ({"true_cfg_scale": 6.0, "shift": 1.0}, {}, 6.0, {"shift": 1.0}),
        ({"true_cfg_scale": 6.0, "shift": 1.0}, {"guidance_scale": 2.5}, 2.5, {"shift": 1.0}),
    ],
)
async def test_the_guidance_of_a_request_goes_before_that_of_models_toml(
    tmp_path: Path, call: dict[str, Any], body: dict[str, Any], scale: float, rest: dict[str, Any]
) -> None:
    qwen = spec(
        "qwen", "image", defaults=Defaults(steps=2, guidance_scale=4.0, width=64, height=64), call=call,
        guidance_argument="true_cfg_scale", arguments=ARGUMENTS,
    )  # fmt: skip
    async with front(tmp_path, catalogue=FakeCatalogue(qwen)) as f:
        job_id = await f.submit(**body)
        request = f.engine.jobs[job_id].requests[0]
        params = (await f.status(job_id))["params"]

    assert isinstance(request, DiffusionRequest)
    assert (request.guidance_argument, request.guidance_scale, request.call) == ("true_cfg_scale", scale, rest)
    assert request.asked == tuple(body)
    assert (params["guidanceScale"], params["call"]) == (scale, rest)


async def test_a_guidance_that_the_pipeline_does_not_take_is_refused(tmp_path: Path) -> None:
    unguided = spec("unguided", "image", arguments=frozenset({"prompt"}))
    async with front(tmp_path, catalogue=FakeCatalogue(unguided)) as f:
        reply = await f.post("/api/generate", IMAGE | {"guidance_scale": 3})

    assert (reply.status_code, reply.json()["error"]) == (
        400, "guidance_scale: unguided does not support this parameter.",
    )  # fmt: skip


async def test_an_output_that_a_safety_checker_blacked_out_is_marked_and_the_others_are_not(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        job_id = await f.submit(n=2)
        f.engine.start_job(job_id)
        f.engine.render(job_id, 0, 0.0, flagged=True)
        f.engine.render(job_id, 1)
        await f.settle()
        outputs = (await f.status(job_id))["outputs"]

    assert [output["flagged"] for output in outputs] == [True, None]


async def test_the_openai_reply_marks_a_flagged_picture(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        waiting = asyncio.create_task(f.post("/v1/images/generations", {"prompt": "x", "response_format": "url"}))
        await f.engine.submitted.wait()
        (job_id,) = f.engine.jobs
        f.engine.start_job(job_id)
        f.engine.render(job_id, 0, 0.0, flagged=True)
        reply = await waiting

    assert reply.json()["data"][0]["flagged"] is True
