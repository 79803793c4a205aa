"""Admins load, unload and pin models and set their keep-alive."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from server.engine_status import ModelStatus
from server.errors import Conflict
from server.protocol import KeepAlive, LoadModel, Pin, UnloadModel
from server.store import model_overrides
from server.store.model_overrides import ModelOverride
from tests.support.http.front import IMAGE, Front, front

pytestmark = pytest.mark.anyio
FAILED = ModelStatus("painter", "failed", 0, 0, "unproven", 0, None, retry_in_s=12.0)


async def patch(f: Front, name: str, body: object) -> object:
    return await f.client.patch(f"/api/models/{name}", json=body, headers=f.auth("admin"))


async def test_every_route_needs_the_admin_scope_and_a_known_model(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        for verb in ("load", "unload", "pin", "unpin"):
            assert (await f.post(f"/api/models/painter/{verb}", key="enterprise")).status_code == 403
            unknown = await f.post(f"/api/models/paintor/{verb}", key="admin")
            assert unknown.status_code == 404
            assert "painter" in unknown.json()["error"]
        assert (await f.client.patch("/api/models/painter", json={}, headers=f.auth("pro"))).status_code == 403
        assert (await patch(f, "paintor", {"pinned": True})).status_code == 404
        assert f.engine.sent == []


async def test_load_and_unload_reach_the_engine_and_return_the_model(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        loaded = await f.post("/api/models/painter/load", key="admin")
        unloaded = await f.post("/api/models/painter/unload", key="admin")

        assert (loaded.status_code, loaded.json()["name"], loaded.json()["state"]) == (200, "painter", "available")
        assert unloaded.status_code == 200
        assert f.engine.sent == [LoadModel("painter", 2**30), UnloadModel("painter")]


async def test_an_impossible_load_is_refused_with_the_reason(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        assert (await f.post("/api/models/giant/load", key="admin")).status_code == 400

        def all_pinned(model: str, need_bytes: int) -> None:
            raise Conflict("pinned models hold too much")

        f.engine.check_fits = all_pinned  # type: ignore[method-assign]  # like a fleet whose models are all pinned
        assert (await f.post("/api/models/painter/load", key="admin")).status_code == 409
        assert (await f.post("/api/generate", IMAGE)).status_code == 409
        assert f.engine.sent == []


async def test_during_the_cooldown_of_a_failed_load_requests_get_a_retry_after(
    tmp_path: Path,
) -> None:
    async with front(tmp_path) as f:
        f.engine.publish(models=[FAILED])
        for refused in (await f.post("/api/models/painter/load", key="admin"), await f.post("/api/generate", IMAGE)):
            assert refused.status_code == 502
            assert 1 <= int(refused.headers["retry-after"]) <= 12
        models = {model["name"]: model for model in (await f.get("/api/models")).json()["models"]}
        f.engine.publish()

        assert (models["painter"]["state"], models["filmer"]["state"]) == ("failed", "available")
        assert models["painter"]["retryInSeconds"] <= 12
        assert (await f.post("/api/generate", IMAGE)).status_code == 200


async def test_a_cooldown_whose_time_has_passed_refuses_nothing(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        f.engine.publish(models=[replace(FAILED, retry_in_s=0.0)])  # the last status of an engine that is idle since
        models = {model["name"]: model for model in (await f.get("/api/models")).json()["models"]}

        assert (models["painter"]["state"], models["painter"]["retryInSeconds"]) == ("available", None)
        assert (await f.post("/api/generate", IMAGE)).status_code == 200
        assert (await f.post("/api/models/painter/load", key="admin")).status_code == 200


async def test_a_pin_prevents_unload_and_survives_a_restart(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        pinned = await f.post("/api/models/painter/pin", key="admin")
        refused = await f.post("/api/models/painter/unload", key="admin")
        keys = f.keys

        assert pinned.json()["pinned"] is True
        assert (refused.status_code, f.engine.sent) == (409, [Pin("painter", True)])
    async with front(tmp_path, keys=keys) as f:
        await f.service.model_overrides.restore()
        assert f.engine.sent == [Pin("painter", True)]
        assert (await f.post("/api/models/painter/unpin", key="admin")).json()["pinned"] is False
        assert (await f.post("/api/models/painter/unload", key="admin")).status_code == 200


@pytest.mark.parametrize(
    ("value", "seconds"), [("10m", 600.0), ("300", 300.0), (2.5, 2.5), (0, 0.0), (-1, math.inf), ("-1", math.inf)]
)
async def test_keep_alive_has_the_format_of_the_settings(tmp_path: Path, value: object, seconds: float) -> None:
    async with front(tmp_path) as f:
        reply = await patch(f, "painter", {"keepAlive": value})

        assert reply.json()["keepAliveSeconds"] == (-1 if math.isinf(seconds) else seconds)
        assert f.engine.sent == [KeepAlive("painter", seconds)]
        assert await f.database.read(model_overrides.model_overrides) == {"painter": ModelOverride(None, seconds)}


async def test_a_load_can_set_the_keep_alive_and_null_restores_the_setting(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        await f.post("/api/models/painter/load", {"keepAlive": "1h"}, key="admin")
        restored = await patch(f, "painter", {"keepAlive": None})

        assert restored.json()["keepAliveSeconds"] == 300
        assert [message for message in f.engine.sent if isinstance(message, KeepAlive)] == [
            KeepAlive("painter", 3600.0),
            KeepAlive("painter", None),
        ]
        assert await f.database.read(model_overrides.model_overrides) == {"painter": ModelOverride(None, None)}


@pytest.mark.parametrize(
    "body", [{"keepAlive": "soon"}, {"keepAlive": True}, {"keepAlive": [1]}, {"pinned": "yes"}, {"keepalive": 1}]
)
async def test_an_invalid_field_is_named_and_changes_nothing(tmp_path: Path, body: dict) -> None:
    async with front(tmp_path) as f:
        refused = await patch(f, "painter", body)

        assert refused.status_code == 400
        assert next(iter(body)) in refused.json()["error"]
        assert f.engine.sent == []


async def test_a_resident_model_has_bytes_by_component_and_the_time_of_its_unload(tmp_path: Path) -> None:
    status = ModelStatus(
        "painter",
        "resident",
        300,
        20,
        "on",
        1,
        60.0,
        waiting=2,
        parked_bytes=50,
        components=(("unet", 200), ("vae", 100)),
    )
    async with front(tmp_path) as f:
        f.engine.publish(models=[status])
        model = next(m for m in (await f.get("/api/models")).json()["models"] if m["name"] == "painter")

    assert (model["bytes"], model["components"], model["parkedBytes"]) == (320, {"unet": 200, "vae": 100}, 50)
    assert (model["running"], model["waiting"], model["devices"]) == (1, 2, ["cpu"])
    assert model["idleUnloadAt"].startswith("2026-11-24T09:0")
