"""The real server with four models where two fit into memory, and with two devices."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.http.live_server import LiveServer
from tests.support.paths import ROOT

sys.path.append(str(ROOT / "benchmarks"))  # the benchmarks import one another by name

pytestmark = [
    pytest.mark.live,
    pytest.mark.slow,
    # raised by diffusers in the direct call that an image is compared with
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    import residency

    data_dir = tmp_path_factory.mktemp("small") / "data"
    data_dir.mkdir()
    live = residency.start(data_dir, residency.make_models(data_dir, 24))
    yield live
    assert live.stop() == 0


def test_jobs_of_four_models_where_two_fit_give_the_right_images_with_few_loads(small: LiveServer) -> None:
    import residency

    samples: list[tuple[int, int]] = []
    jobs: list[residency.Watched] = []
    with ThreadPoolExecutor(1) as pool:
        residency.watch(small, jobs, pool.submit(residency.submit_all, small, 24, jobs), samples)

    assert [job.end["status"] for job in jobs] == ["completed"] * 24
    assert residency.loads(small) <= 8
    assert max(used for used, _ in samples) <= small.get("/api/gpu").json["devices"][0]["total"]
    assert all(job.end["metrics"]["peakBytes"] > 0 for job in jobs)
    for job in jobs[:3]:
        assert residency.difference(small, small.data_dir, job) <= 1  # one step of 8-bit rounding


def test_a_pinned_model_stays_loaded_and_models_that_do_not_fit_beside_it_are_refused(
    small: LiveServer,
) -> None:
    for name in ("amber", "birch"):
        assert small.post(f"/api/models/{name}/pin", {}).status == 200
        small.wait(small.submit(type="image", prompt="x", model=name, width=64, height=64, steps=1))
    refused = small.post("/api/generate", {"type": "image", "prompt": "x", "model": "cedar"})
    assert refused.status == 409, refused.body
    assert small.post("/api/models/birch/unpin", {}).status == 200

    assert small.wait(small.submit(type="image", prompt="x", model="cedar", width=64, height=64, steps=1))
    models = {model["name"]: model for model in small.get("/api/models").json["models"]}
    assert models["amber"]["state"] == "resident"
    assert models["birch"]["state"] == "available"
    assert small.post("/api/models/amber/unpin", {}).status == 200
    never = small.post("/api/chat", {"message": "Hello", "model": "smollm2-135m"})
    assert never.status == 400, never.body
    assert "MiB" in never.json["error"]


def test_two_devices_share_many_jobs_and_each_is_reported(tmp_path: Path) -> None:
    live = LiveServer(tmp_path / "data", env={"AGENTNAME_DEVICE": "cpu,cpu", "AGENTNAME_MEMORY_BUDGET": "2GiB"}).start()
    jobs = [live.submit(prompt="a red circle", type="image", steps=8, seed=i) for i in range(24)]
    ends = [live.wait(job) for job in jobs]
    devices = live.get("/api/gpu").json["devices"]
    model = next(m for m in live.get("/api/models").json["models"] if m["name"] == "tiny-scenes")
    code = live.stop()

    assert [end["status"] for end in ends] == ["completed"] * 24
    assert [device["name"] for device in devices] == ["cpu 0", "cpu 1"]
    for device in devices:
        assert sum(holder["bytes"] for holder in device["holders"]) == device["used"] > 0
    assert model["devices"] == ["cpu 0", "cpu 1"]
    assert code == 0
