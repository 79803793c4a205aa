"""AUTOMATIC1111's API as Open WebUI uses it, and its Basic authentication."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save

from models.spec import Defaults
from pipelines.diffusion_interface import DiffusionRequest
from tests.fakes import FakeCatalogue, spec
from tests.support.http.front import Front, front
from tests.support.http.http_front import finish_jobs

pytestmark = pytest.mark.anyio

PNG = b"\x89PNG\r\n\x1a\n"


def basic(f: Front, key: str = "pro") -> dict[str, str]:
    return {"authorization": f"Basic {base64.b64encode(f'anybody:{f.keys[key]}'.encode()).decode()}"}


async def test_open_webui_generates_images(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        finish_jobs(f)
        headers = basic(f)
        models = (await f.client.get("/sdapi/v1/sd-models", headers=headers)).json()
        chosen = (await f.client.get("/sdapi/v1/options", headers=headers)).json()["sd_model_checkpoint"]
        body = {
            "prompt": "A city", "negative_prompt": "", "batch_size": 2, "width": 64, "height": 64, "steps": 3,
            "seed": -1, "sampler_name": "Euler", "restore_faces": False, "alwayson_scripts": {},
        }  # fmt: skip
        reply = (await f.client.post("/sdapi/v1/txt2img", json=body, headers=headers)).json()

    assert [model["title"] for model in models] == ["painter", "giant"]
    assert chosen == "painter"
    assert [base64.b64decode(image)[:8] for image in reply["images"]] == [PNG, PNG]
    info = json.loads(reply["info"])
    assert info["all_seeds"] == [info["seed"], info["seed"] + 1]
    assert info["ignored"] == ["sampler_name"]


async def test_progress_and_interrupt_refer_to_the_keys_own_job(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        idle = (await f.get("/sdapi/v1/progress")).json()
        job_id = await f.submit()
        f.engine.start_job(job_id)
        f.engine.progress(job_id, "denoising", 2)
        mine = (await f.get("/sdapi/v1/progress")).json()
        foreign = (await f.get("/sdapi/v1/progress", "other")).json()
        await f.post("/sdapi/v1/interrupt", key="other")
        canceled_by_other = list(f.engine.canceled)
        await f.post("/sdapi/v1/interrupt")

    assert (idle["progress"], foreign["progress"]) == (0, 0)
    assert (mine["state"]["sampling_step"], mine["state"]["sampling_steps"]) == (2, 4)
    assert 0 < mine["progress"] < 1
    assert (canceled_by_other, f.engine.canceled) == ([], [job_id])


async def test_progress_has_a_preview_of_the_image(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        generating = asyncio.create_task(f.post("/sdapi/v1/txt2img", {"prompt": "A city"}))
        await f.engine.submitted.wait()
        (job,) = f.engine.jobs.values()
        f.engine.start_job(job.id)
        before = (await f.get("/sdapi/v1/progress")).json()["current_image"]
        f.engine.preview(job.id, 200)
        preview = (await f.get("/sdapi/v1/progress?skip_current_image=false")).json()["current_image"]
        skipped = (await f.get("/sdapi/v1/progress?skip_current_image=true")).json()["current_image"]
        invalid = await f.get("/sdapi/v1/progress?skip_current_image=maybe")
        foreign = (await f.get("/sdapi/v1/progress", "other")).json()["current_image"]
        f.engine.render(job.id, 0)
        assert (await generating).status_code == 200

    assert (before, skipped, foreign) == (None, None, None)
    assert abs(np.asarray(Image.open(io.BytesIO(base64.b64decode(preview)))).astype(int) - 200).max() < 8
    assert invalid.json() == {"error": "skip_current_image must be true or false.", "code": 400}


@pytest.mark.parametrize("enabled", [True, False])
async def test_previews_are_on_unless_the_client_disables_them(tmp_path: Path, enabled: bool) -> None:
    async with front(tmp_path) as f:
        finish_jobs(f)
        await f.post("/sdapi/v1/txt2img", {"prompt": "x", "override_settings": {"live_previews_enable": enabled}})
        (job,) = f.engine.jobs.values()

    assert job.requests[0].preview is enabled  # type: ignore[union-attr]  # an image


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"prompt": ""},
        {"prompt": "x", "batch_size": 4, "n_iter": 4},
        {"prompt": "x", "steps": "4"},
        {"prompt": "x", "width": 63, "height": 64},
        {"prompt": "x", "override_settings": {"sd_model_checkpoint": 1}},
    ],
)
async def test_invalid_input_is_a_400(tmp_path: Path, body: object) -> None:
    async with front(tmp_path) as f:
        assert (await f.post("/sdapi/v1/txt2img", body)).status_code == 400


async def test_the_model_that_open_webui_sets_applies_to_its_key_only(tmp_path: Path) -> None:
    """Open WebUI reads the options, sends all of them back with another checkpoint, and then requests images."""
    async with front(tmp_path, catalogue=two_image_models()) as f:
        finish_jobs(f)
        options = (await f.client.get("/sdapi/v1/options", headers=basic(f))).json()
        options["sd_model_checkpoint"] = "sketcher"
        chosen = await f.client.post("/sdapi/v1/options", json=options, headers=basic(f))
        now = (await f.client.get("/sdapi/v1/options", headers=basic(f))).json()["sd_model_checkpoint"]
        body = {"prompt": "A city", "batch_size": 1, "width": 64, "height": 64, "steps": 4}
        mine = (await f.client.post("/sdapi/v1/txt2img", json=body, headers=basic(f))).json()
        foreign = (await f.post("/sdapi/v1/txt2img", body, "other")).json()
        overridden = await f.post(
            "/sdapi/v1/txt2img", body | {"override_settings": {"sd_model_checkpoint": "painter"}}, "pro"
        )
        unknown = await f.post("/sdapi/v1/options", {"sd_model_checkpoint": "nobody"})
        chat_model = await f.post("/sdapi/v1/options", {"sd_model_checkpoint": "talker"})

    assert (chosen.status_code, now) == (200, "sketcher")
    assert json.loads(mine["info"])["sd_model_name"] == "sketcher"
    assert json.loads(foreign["info"])["sd_model_name"] == "painter"
    assert json.loads(overridden.json()["info"])["sd_model_name"] == "painter"
    assert (unknown.status_code, chat_model.status_code) == (404, 400)


async def test_the_default_replaces_a_stored_model_that_was_removed(tmp_path: Path) -> None:
    async with front(tmp_path, catalogue=two_image_models()) as f:
        await f.post("/sdapi/v1/options", {"sd_model_checkpoint": "sketcher"})
    async with front(tmp_path, keys=f.keys) as f:
        assert (await f.get("/sdapi/v1/options")).json()["sd_model_checkpoint"] == "painter"


async def generate(f: Front, **body: Any) -> tuple[DiffusionRequest, dict[str, Any]]:
    """Generates an image and returns the request that the engine received, and `info` of the reply."""
    reply = await f.post("/sdapi/v1/txt2img", {"prompt": "A city"} | body)
    assert reply.status_code == 200, reply.text
    request = f.engine.jobs.popitem()[1].requests[0]
    assert isinstance(request, DiffusionRequest)
    return request, json.loads(reply.json()["info"])


@pytest.mark.parametrize(
    ("fields", "layers"),
    [
        ({}, None),
        ({"clip_skip": 1}, None),
        ({"clip_skip": 2}, 1),
        ({"override_settings": {"CLIP_stop_at_last_layers": 1}}, None),
        ({"override_settings": {"CLIP_stop_at_last_layers": 3}}, 2),
        ({"clip_skip": 2, "override_settings": {"CLIP_stop_at_last_layers": 3}}, 2),
    ],
)
async def test_clip_skip_counts_from_the_last_layer_as_one(
    tmp_path: Path, fields: dict[str, Any], layers: int | None
) -> None:
    async with front(tmp_path, catalogue=two_image_models()) as f:
        finish_jobs(f)
        request, info = await generate(f, **fields)

        assert (request.clip_skip, info["clip_skip"]) == (layers, (layers or 0) + 1)


async def test_clip_skip_can_be_stored_as_an_option(tmp_path: Path) -> None:
    async with front(tmp_path, catalogue=two_image_models()) as f:
        finish_jobs(f)
        await f.post("/sdapi/v1/options", {"CLIP_stop_at_last_layers": 2})

        assert (await f.get("/sdapi/v1/options")).json()["CLIP_stop_at_last_layers"] == 2
        assert (await generate(f))[0].clip_skip == 1
        assert (await generate(f, clip_skip=1))[0].clip_skip is None


async def test_loras_in_the_prompt_are_parsed_and_removed(tmp_path: Path) -> None:
    ink, wash = save_lora(tmp_path, "ink"), save_lora(tmp_path, "wash.v2")
    async with front(tmp_path, catalogue=two_image_models()) as f:
        finish_jobs(f)
        listed = [lora["name"] for lora in (await f.get("/sdapi/v1/loras")).json()]
        own = (await f.get("/api/loras")).json()
        request, info = await generate(f, prompt="A <lora:ink:0.8> city, <lora:wash.v2>night<hypernet:old:1>")
        parts, _ = await generate(f, prompt="A city <lora:ink:te=0.5:unet=0.5>")

    assert (listed, own) == (["ink", "wash.v2"], {"loras": ["ink", "wash.v2"]})
    assert request.prompt == "A  city, night"
    assert [(lora.name, lora.path, lora.weight) for lora in request.loras] == [
        ("ink", str(ink), 0.8),
        ("wash.v2", str(wash), 1.0),
    ]
    assert info["loras"] == [{"name": "ink", "weight": 0.8}, {"name": "wash.v2", "weight": 1.0}]
    assert info["ignored"] == ["prompt"]
    assert [lora.weight for lora in parts.loras] == [0.5]


async def test_tags_name_loras_as_their_files_are_named(tmp_path: Path) -> None:
    for name in ("add detail xl (v2.0)", "détail", "_ink", "a+b, c", "100%", "v1:beta"):
        save_lora(tmp_path, name)
    async with front(tmp_path, catalogue=two_image_models()) as f:
        finish_jobs(f)
        listed = [lora["name"] for lora in (await f.get("/sdapi/v1/loras")).json()]
        requests = [(await generate(f, prompt=f"A city <lora:{name}:0.5>"))[0] for name in listed]
        own = (await f.get("/api/loras")).json()["loras"]

    assert sorted(listed) == sorted(set(own) - {"v1:beta"}), "a tag cannot hold a colon in a name"
    assert [request.loras[0].name for request in requests] == listed
    assert {request.prompt for request in requests} == {"A city "}


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        ("A city <lora:inc:1>", "loras: There is no LoRA of that name. Did you mean 'ink'?"),
        ("A city <lora:ink:strong>", "prompt: a LoRA is written <lora:NAME:WEIGHT>, and its weight is a number."),
        ("A city <lora:ink:nan>", "prompt: the weight of a LoRA must be from -10 to 10."),
        ("A city <lora:ink:1:0.5>", "prompt: a LoRA has one weight"),
        ("A city <lora:ink:1:1:1>", "prompt: a LoRA has one weight"),
        ("A city <lora:ink:1><lora:ink:1>", "loras: each LoRA may be listed only once."),
        ("<lora:ink:1>", "prompt must contain text besides its LoRAs."),
        ("A city" + "<lora:ink:1>" * 9, "prompt: at most 8 LoRAs."),
    ],
)  # fmt: skip
async def test_an_invalid_lora_is_a_400_with_the_reason(tmp_path: Path, prompt: str, text: str) -> None:
    save_lora(tmp_path, "ink")
    async with front(tmp_path, catalogue=two_image_models()) as f:
        reply = await f.post("/sdapi/v1/txt2img", {"prompt": prompt})

    assert reply.status_code == 400
    assert reply.json()["error"].startswith(text)


async def test_a_model_without_lora_support_is_a_400(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        reply = await f.post("/sdapi/v1/txt2img", {"prompt": "A city <lora:ink:1>"})

    assert reply.json() == {"error": "loras: painter does not support LoRAs.", "code": 400}


@pytest.mark.parametrize(
    ("fields", "scheduler", "ignored"),
    [
        ({}, None, []),
        ({"sampler_name": "Euler a"}, "EulerAncestralDiscreteScheduler", []),
        ({"sampler_index": "euler A"}, "EulerAncestralDiscreteScheduler", []),
        ({"sampler_name": "DPM++ 2M Karras"}, "DPMSolverMultistepScheduler", ["scheduler"]),
        ({"sampler_name": "DPM++ 2M", "scheduler": "Karras"}, "DPMSolverMultistepScheduler", ["scheduler"]),
        ({"sampler_name": "DPM++ 2M", "scheduler": "Automatic"}, "DPMSolverMultistepScheduler", []),
        ({"sampler_name": "Restart"}, None, ["sampler_name"]),
        ({"sampler_name": "UniPC"}, None, ["sampler_name"]),
    ],
)
async def test_sampler_names_are_translated(
    tmp_path: Path, fields: dict[str, Any], scheduler: str | None, ignored: list[str]
) -> None:
    async with front(tmp_path, catalogue=two_image_models()) as f:
        finish_jobs(f)
        request, info = await generate(f, **fields)

    assert (request.scheduler, info["ignored"]) == (scheduler, ignored)


async def test_only_supported_samplers_are_listed_and_an_unknown_one_is_a_400(tmp_path: Path) -> None:
    async with front(tmp_path, catalogue=two_image_models()) as f:
        listed = [sampler["name"] for sampler in (await f.get("/sdapi/v1/samplers")).json()]
        spacings = [scheduler["label"] for scheduler in (await f.get("/sdapi/v1/schedulers")).json()]
        unknown = await f.post("/sdapi/v1/txt2img", {"prompt": "A city", "sampler_name": "Eular"})

    assert (listed, spacings) == (["Euler a", "DPM++ 2M"], ["Automatic"])
    assert unknown.json() == {"error": "sampler_name must be a name from GET /sdapi/v1/samplers.", "code": 400}


async def test_n_iter_times_batch_size_images_have_consecutive_seeds(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        finish_jobs(f)
        reply = (await f.post("/sdapi/v1/txt2img", {"prompt": "x", "n_iter": 2, "batch_size": 3, "seed": 5})).json()

    assert len(set(reply["images"])) == len(reply["images"]) == 6
    assert json.loads(reply["info"])["all_seeds"] == [5, 6, 7, 8, 9, 10]


async def test_an_interrupt_ends_the_request_with_an_error(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        generating = asyncio.create_task(f.post("/sdapi/v1/txt2img", {"prompt": "A city"}))
        await f.engine.submitted.wait()
        (job,) = f.engine.jobs.values()
        f.engine.start_job(job.id)
        interrupted = await f.post("/sdapi/v1/interrupt")
        f.engine.confirm_cancel(job.id)

        assert interrupted.json() == {}
        assert (await generating).json() == {"error": "The job was canceled.", "code": 502}


def two_image_models() -> FakeCatalogue:
    more = {"max_clip_skip": 4, "takes_loras": True, "defaults": Defaults(steps=2, width=64, height=64)}
    schedulers = ("EulerAncestralDiscreteScheduler", "DPMSolverMultistepScheduler")
    return FakeCatalogue(
        spec("painter", "image", schedulers=schedulers, **more),
        spec("sketcher", "image", **more),
        spec("talker", "chat"),
    )


def save_lora(folder: Path, name: str) -> Path:
    path = folder / "loras" / f"{name}.safetensors"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(save({"unet.down.lora_A.weight": np.zeros((1, 1), np.float16)}))
    return path


async def test_a_failed_job_is_an_error(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        generating = asyncio.create_task(f.post("/sdapi/v1/txt2img", {"prompt": "x"}))
        await f.engine.submitted.wait()
        f.engine.fail(next(iter(f.engine.jobs)))

        assert (await generating).status_code == 502


async def test_basic_authentication_works_only_under_sdapi(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        assert (await f.client.get("/sdapi/v1/options", headers=basic(f))).status_code == 200
        assert (await f.client.get("/api/models", headers=basic(f))).status_code == 401
        for wrong in ("Basic", "Basic !", "Basic YQ==", "Basic " + base64.b64encode(b"a:b").decode(), "Basic \xff"):
            assert (
                await f.client.get("/sdapi/v1/options", headers={"authorization": wrong.encode("latin-1")})
            ).status_code == 401  # type: ignore[dict-item]  # bytes as they come
