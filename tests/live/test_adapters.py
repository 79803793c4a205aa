"""ControlNets through the real server: listed, borrowed by a job, counted on the device, and gone after their time."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from benchmarks.families import FAMILIES
from tests.support.http.live_models import serving
from tests.support.http.live_server import LiveServer
from tests.support.http.picture_doors import data_url
from tests.support.lanes.tiny_adapters import controlnet_for, saved
from tests.support.odd_files.case import encoded

pytestmark = [pytest.mark.live, pytest.mark.slow]

SIDE = 32


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("adapters")
    family = FAMILIES["StableDiffusionPipeline"]
    family.save(folder / "tiny-sd")
    pipeline = family.build()
    for seed, name in enumerate(("tiny-canny", "tiny-depth")):
        saved(controlnet_for(pipeline, seed), folder, name)
    names = ("tiny-sd", "tiny-canny", "tiny-depth")
    with serving(folder, [{"source": name, "name": name} for name in names]) as live:
        yield live


PHOTO = data_url(encoded(Image.radial_gradient("L").resize((SIDE, SIDE)).convert("RGB"), "PNG"))


def models(server: LiveServer) -> dict[str, Any]:
    return {model["name"]: model for model in server.get("/api/models").json["models"]}


def made(server: LiveServer, **body: Any) -> tuple[dict[str, Any], NDArray[np.int16]]:
    usual = {"prompt": "a city", "type": "image", "model": "tiny-sd", "steps": 3, "seed": 7}
    job = server.wait(server.submit(**usual | body))
    content = server.fetch(job["outputs"][0]["url"]).body
    with Image.open(io.BytesIO(content)) as image:
        return job, np.asarray(image.convert("RGB")).astype(np.int16)


def test_adapters_are_listed_with_the_models_that_they_fit_and_cannot_be_loaded(server: LiveServer) -> None:
    canny = models(server)["tiny-canny"]

    assert (canny["type"], canny["default"], canny["state"]) == ("adapter", False, "available")
    assert canny["adapter"] == {
        "kind": "controlnet", "adapterClass": "ControlNetModel", "scale": None, "types": ["canny"], "fits": ["tiny-sd"],
        "lentTo": [],
    }  # fmt: skip
    for verb in ("load", "pin"):
        refused = server.post(f"/api/models/tiny-canny/{verb}", {})
        assert refused.status == 400
        assert "requests borrow it" in refused.json["error"]
    used = server.post("/api/generate", {"prompt": "a", "type": "image", "model": "tiny-canny"})
    assert (used.status, "is an adapter" in used.json["error"]) == (400, True)
    assert "tiny-canny" not in [each["id"] for each in server.get("/v1/models").json["data"]]


def test_a_job_borrows_the_controlnet_of_its_type_and_its_bytes_are_counted_once(server: LiveServer) -> None:
    _, plain = made(server)
    before = models(server)["tiny-sd"]["bytes"]
    job, controlled = made(server, control=[{"type": "canny", "image": PHOTO, "strength": 0.9}])
    _, again = made(server, control=[{"model": "tiny-canny", "image": PHOTO, "strength": 0.9, "preprocessor": "canny"}])
    _, other = made(server, control=[{"type": "depth", "image": PHOTO}])

    assert not np.array_equal(plain, controlled)
    assert np.array_equal(again, controlled), "the edges of a photo are found where the type is canny"
    assert any("photo" in warning for warning in job["warnings"])
    assert job["params"]["inputs"]["control"][0]["model"] == "tiny-canny"
    assert not np.array_equal(other, controlled)
    listed = models(server)
    adapters = [listed[name] for name in ("tiny-canny", "tiny-depth")]
    assert listed["tiny-sd"]["bytes"] == before + sum(adapter["bytes"] for adapter in adapters)
    assert [adapter["adapter"]["lentTo"] for adapter in adapters] == [["tiny-sd"], ["tiny-sd"]]
    (device,) = server.get("/api/gpu").json["devices"]
    assert sum(holder["bytes"] for holder in device["holders"]) == device["used"]


@pytest.mark.parametrize(
    ("control", "field", "says"),
    [
        ({"type": "pose"}, "control[0].type", "tiny-canny (canny), tiny-depth (depth)"),
        ({"type": "spaghetti"}, "control[0].type", "canny, depth, pose"),
        ({"model": "tiny-sd"}, "control[0].model", "no ControlNet"),
        ({"model": "nothing"}, "control[0].model", "tiny-canny (canny)"),
        ({"type": "depth", "model": "tiny-canny"}, "control[0].type", "must be one of canny"),
        ({"type": "canny", "preprocessor": "openpose"}, "control[0].preprocessor", "canny, invert, none"),
        ({"type": "canny", "start": 0.6, "end": 0.5}, "control[0].start", "less than its end"),
    ],
)
def test_a_control_that_cannot_be_followed_is_refused_by_its_field(
    server: LiveServer, control: dict[str, Any], field: str, says: str
) -> None:
    body = {"prompt": "a", "type": "image", "model": "tiny-sd", "control": [{"image": PHOTO} | control]}

    refused = server.post("/api/generate", body)

    assert refused.status == 400
    assert refused.json["error"].startswith(field)
    assert says in refused.json["error"]


def test_an_idle_adapter_leaves_after_its_own_keep_alive(server: LiveServer) -> None:
    made(server, control=[{"type": "canny", "image": PHOTO}])
    changed = server.request("PATCH", "/api/models/tiny-canny", {"keepAlive": 0})
    assert changed.status == 200, changed.body

    gone = server.wait_until(
        "/api/models",
        lambda reply: not any(model["adapter"]["lentTo"] for model in reply["models"] if model["name"] == "tiny-canny"),
    )
    listed = {model["name"]: model for model in gone["models"]}
    assert listed["tiny-sd"]["state"] == "resident"
    assert not any(name.startswith("controlnet:tiny-canny") for name in listed["tiny-sd"]["components"])
