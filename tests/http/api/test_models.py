"""GET /api/models and GET /api/gpu: models and device memory as the engine reports them."""

from __future__ import annotations

from pathlib import Path

import pytest

from server.engine_status import ModelStatus
from tests.support.http.front import MORNING, front

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
