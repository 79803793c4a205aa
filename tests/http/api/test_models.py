"""GET /api/models and GET /api/gpu: models and device memory as the engine reports them."""

from __future__ import annotations

from pathlib import Path

import pytest

from models.catalogue import Catalogue
from models.catalogue_reader import STILL_READ, RefusedModel
from models.checkpoint.pipeline_tasks import tasks_of
from models.pipeline_signature import pipeline_signature
from models.spec import ModelSpec
from server.engine_status import ModelStatus
from tests.fakes import FakeCatalogue, small_catalogue, spec
from tests.support.http.front import IMAGE, MORNING, front

pytestmark = pytest.mark.anyio


async def test_models_and_memory_are_those_of_the_engines_status(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        before = (await f.get("/api/gpu")).json()
        f.engine.publish(models=[ModelStatus("painter", "resident", 2**30, 0, "on", 1, 60.0)])
        models = {model["name"]: model for model in (await f.get("/api/models")).json()["models"]}
        (device,) = (await f.get("/api/gpu")).json()["devices"]

    assert before == {"devices": []}
    painter = models["painter"]
    assert (painter["state"], painter["merging"], painter["device"], painter["bytes"]) == (
        "resident",
        "on",
        "cpu",
        2**30,
    )
    assert painter["idleUnloadAt"].startswith(MORNING.strftime("%Y-%m-%dT09:0"))
    assert painter["defaults"]["guidanceScale"] == 3.0
    assert painter["limits"]["sizeMultiple"] == 8
    assert painter["speeds"] == ["exact"]  # by default it takes 4 steps
    assert "4 steps" in painter["speedNote"]
    assert (models["filmer"]["state"], models["filmer"]["device"]) == ("available", None)
    assert sum(holder["bytes"] for holder in device["holders"]) == device["used"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/generate", IMAGE | {"model": "slow"}),
        ("/api/generate", IMAGE | {"model": "painter", "upscale": {"model": "slow"}}),
        ("/api/chat", {"message": "Hi", "model": "slow"}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}]}),
        ("/v1/images/generations", {"prompt": "Rain", "model": "slow"}),
        ("/api/models/slow/load", {}),
    ],
)
async def test_a_request_for_a_model_that_is_still_being_read_is_told_when_to_ask_again(
    tmp_path: Path, path: str, body: dict[str, object]
) -> None:
    refused = [RefusedModel("slow", STILL_READ.reason, STILL_READ.state)]
    catalogue = Catalogue(small_catalogue().specs(), refused=refused, defaults={"chat": "slow"})

    async with front(tmp_path, catalogue=catalogue) as f:
        reply = await f.post(path, body, "admin" if path.startswith("/api/models") else "free")

        assert (reply.status_code, reply.headers["retry-after"]) == (502, "2")
        assert "slow is still being read" in reply.text
        assert not any([await f.used("images"), await f.used("chats")])


def _of_class(pipeline: str) -> ModelSpec:
    signature = pipeline_signature(pipeline)
    assert signature is not None
    tasks = tasks_of(pipeline, signature.required, {})
    return spec(pipeline.lower(), "image", pipeline=pipeline, tasks=tasks, arguments=tasks[0].arguments)


async def test_each_model_tells_the_inputs_that_it_takes_and_those_that_it_needs(tmp_path: Path) -> None:
    catalogue = FakeCatalogue(
        *map(_of_class, ("StableDiffusionPipeline", "FluxFillPipeline", "CosmosVideoToWorldPipeline"))
    )

    async with front(tmp_path, catalogue=catalogue) as f:
        models = {model["name"]: model for model in (await f.get("/api/models")).json()["models"]}

    painter, filler = models["stablediffusionpipeline"], models["fluxfillpipeline"]
    assert (painter["inputs"], painter["requiredInputs"]) == (["text", "image", "mask"], [])  # no ControlNet is here
    assert {task["pipeline"]: task["strength"] for task in painter["tasks"]} == {
        "StableDiffusionPipeline": False,
        "StableDiffusionImg2ImgPipeline": True,
        "StableDiffusionInpaintPipeline": True,
    }
    assert (filler["inputs"], filler["requiredInputs"]) == (["text", "image", "mask"], [["image", "mask"]])
    assert models["cosmosvideotoworldpipeline"]["requiredInputs"] == [["image"], ["video"]]
