"""AUTOMATIC1111's API as Open WebUI uses it, and its Basic authentication, there and only there."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.front import Front, front
from tests.http_front import finish_jobs

pytestmark = pytest.mark.anyio

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def basic(f: Front, key: str = "pro") -> dict[str, str]:
    return {"authorization": f"Basic {base64.b64encode(f'anybody:{f.keys[key]}'.encode()).decode()}"}


async def test_open_webui_makes_a_picture(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        finish_jobs(f)
        said = basic(f)
        models = (await f.client.get("/sdapi/v1/sd-models", headers=said)).json()
        chosen = (await f.client.get("/sdapi/v1/options", headers=said)).json()["sd_model_checkpoint"]
        body = {
            "prompt": "A city", "negative_prompt": "", "batch_size": 2, "width": 64, "height": 64, "steps": 3, "seed": -1,
            "sampler_name": "Euler", "restore_faces": False, "alwayson_scripts": {},
        }  # fmt: skip
        reply = (await f.client.post("/sdapi/v1/txt2img", json=body, headers=said)).json()

    assert [model["title"] for model in models] == ["painter", "giant"]
    assert chosen == "painter"
    assert [base64.b64decode(image)[:8] for image in reply["images"]] == [PNG, PNG]
    info = json.loads(reply["info"])
    assert info["all_seeds"] == [info["seed"], info["seed"] + 1]
    assert info["ignored"] == ["sampler_name"]


async def test_progress_and_interrupt_are_of_ones_own_job(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        idle = (await f.get("/sdapi/v1/progress")).json()
        job_id = await f.submit()
        f.engine.start(job_id)
        f.engine.progress(job_id, "denoising", 2)
        mine = (await f.get("/sdapi/v1/progress")).json()
        foreign = (await f.get("/sdapi/v1/progress", "other")).json()
        await f.post("/sdapi/v1/interrupt", key="other")
        left_alone = list(f.engine.canceled)
        await f.post("/sdapi/v1/interrupt")

    assert (idle["progress"], foreign["progress"]) == (0, 0)
    assert (mine["state"]["sampling_step"], mine["state"]["sampling_steps"]) == (2, 4)
    assert 0 < mine["progress"] < 1
    assert (left_alone, f.engine.canceled) == ([], [job_id])


async def test_progress_shows_what_the_picture_looks_like_by_now(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        asking = asyncio.create_task(f.post("/sdapi/v1/txt2img", {"prompt": "A city"}))
        await f.engine.submitted.wait()
        (job,) = f.engine.jobs.values()
        f.engine.start(job.id)
        nothing_yet = (await f.get("/sdapi/v1/progress")).json()["current_image"]
        f.engine.preview(job.id, 200)
        seen = (await f.get("/sdapi/v1/progress?skip_current_image=false")).json()["current_image"]
        skipped = (await f.get("/sdapi/v1/progress?skip_current_image=true")).json()["current_image"]
        nonsense = await f.get("/sdapi/v1/progress?skip_current_image=maybe")
        foreign = (await f.get("/sdapi/v1/progress", "other")).json()["current_image"]
        f.engine.render(job.id, 0)
        assert (await asking).status_code == 200

    assert (nothing_yet, skipped, foreign) == (None, None, None)
    assert abs(np.asarray(Image.open(io.BytesIO(base64.b64decode(seen)))).astype(int) - 200).max() < 8
    assert nonsense.json() == {"error": "skip_current_image must be true or false.", "code": 400}


@pytest.mark.parametrize("said", [True, False])
async def test_previews_are_made_unless_the_client_wants_none(tmp_path: Path, said: bool) -> None:
    async with front(tmp_path) as f:
        finish_jobs(f)
        await f.post("/sdapi/v1/txt2img", {"prompt": "x", "override_settings": {"live_previews_enable": said}})
        (job,) = f.engine.jobs.values()

    assert job.requests[0].preview is said  # type: ignore[union-attr]  # of a picture


@pytest.mark.parametrize(
    "body",
    [{}, {"prompt": ""}, {"prompt": "x", "batch_size": 4, "n_iter": 4}, {"prompt": "x", "steps": "4"}, {"prompt": "x", "width": 63, "height": 64}, {"prompt": "x", "override_settings": {"sd_model_checkpoint": 1}}],
)  # fmt: skip
async def test_bad_input_is_a_400(tmp_path: Path, body: object) -> None:
    async with front(tmp_path) as f:
        assert (await f.post("/sdapi/v1/txt2img", body)).status_code == 400


async def test_the_model_is_not_switched_for_everybody(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        same = await f.post("/sdapi/v1/options", {"sd_model_checkpoint": "painter", "CLIP_stop_at_last_layers": 1})
        other = await f.post("/sdapi/v1/options", {"sd_model_checkpoint": "giant"})

    assert (same.status_code, other.status_code) == (200, 400)


async def test_a_failed_picture_is_an_error(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        asking = asyncio.create_task(f.post("/sdapi/v1/txt2img", {"prompt": "x"}))
        await f.engine.submitted.wait()
        f.engine.fail(next(iter(f.engine.jobs)))

        assert (await asking).status_code == 502


async def test_basic_authentication_is_taken_there_and_only_there(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        assert (await f.client.get("/sdapi/v1/options", headers=basic(f))).status_code == 200
        assert (await f.client.get("/api/models", headers=basic(f))).status_code == 401
        for wrong in ("Basic", "Basic !", "Basic YQ==", "Basic " + base64.b64encode(b"a:b").decode(), "Basic \xff"):
            assert (
                await f.client.get("/sdapi/v1/options", headers={"authorization": wrong.encode("latin-1")})
            ).status_code == 401  # type: ignore[dict-item]  # bytes as they come
