"""POST /api/models/check tells an admin what a source is before it is added, and changes nothing."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from server.library.folder_watcher import FolderWatcher
from tests.support.checkpoints import stable_diffusion_folder
from tests.support.http.library_front import library

pytestmark = pytest.mark.anyio


async def test_a_folder_is_reported_and_not_added(tmp_path: Path) -> None:
    folder = stable_diffusion_folder(tmp_path / "sd")
    async with library(tmp_path) as f:
        report = (await f.post("/api/models/check", {"source": str(folder)}, "admin")).json()

        assert (report["servable"], report["state"], report["type"]) == (True, "ready", "image")
        assert (report["name"], report["weightBytes"]) == ("sd", 64)
        assert (await f.get("/api/models")).json() == {"models": [], "refused": []}

        shutil.rmtree(folder / "unet")
        report = (await f.post("/api/models/check", {"source": str(folder)}, "admin")).json()
        assert (report["servable"], report["missing"]) == (False, ["unet: the folder"])


async def test_only_an_admin_may_look_at_the_servers_disk(tmp_path: Path) -> None:
    async with library(tmp_path) as f:
        assert (await f.post("/api/models/check", {"source": "/"}, "enterprise")).status_code == 403
        assert (await f.post("/api/models/check", {}, "admin")).status_code == 400


async def test_an_incomplete_model_is_listed_with_what_it_lacks_and_served_when_that_arrives(tmp_path: Path) -> None:
    folder = stable_diffusion_folder(tmp_path / "models/sd")
    vae = folder / "vae"
    vae.rename(tmp_path / "vae")
    async with library(tmp_path) as f:
        (model,) = (await f.get("/api/models")).json()["models"]
        assert (model["name"], model["type"], model["state"]) == ("sd", "image", "incomplete")
        assert model["missing"] == ["vae: the folder"]
        (refused,) = (await f.get("/api/models")).json()["refused"]
        assert "source" not in refused
        shown = (await f.get("/api/models/sd", "admin")).json()
        assert (shown["state"], shown["missing"], shown["source"]) == ("incomplete", ["vae: the folder"], str(folder))
        reply = await f.post("/api/generate", {"prompt": "x", "type": "image", "model": "sd"})
        assert reply.status_code == 404
        assert "vae: the folder" in reply.json()["error"]
        assert [m["id"] for m in (await f.get("/v1/models")).json()["data"]] == []

        (tmp_path / "vae").rename(vae)
        await f.app.state.library.refresh()
        (model,) = (await f.get("/api/models")).json()["models"]
        assert (model["state"], model["missing"], model["reason"]) == ("available", [], None)


async def test_an_incomplete_model_can_be_added_and_removed_and_is_served_when_its_files_arrive(tmp_path: Path) -> None:
    folder = stable_diffusion_folder(tmp_path / "sd")
    vae = folder / "vae"
    vae.rename(tmp_path / "vae")
    async with library(tmp_path) as f:
        added = await f.post("/api/models", {"source": str(folder)}, "admin")
        assert (added.status_code, added.json()["state"]) == (200, "incomplete")
        assert added.json()["missing"] == ["vae: the folder"]
        assert (await f.post("/api/models", {"source": str(folder)}, "admin")).status_code == 409
        assert (await f.delete("/api/models/sd", "admin")).status_code == 200
        assert (await f.post("/api/models", {"source": str(folder)}, "admin")).status_code == 200

        (tmp_path / "vae").rename(vae)
        await f.app.state.library.refresh()
        assert (await f.post("/api/generate", {"prompt": "x", "type": "image", "model": "sd"})).status_code == 200


async def test_a_folder_that_was_away_comes_back_by_itself(tmp_path: Path) -> None:
    disk, away = stable_diffusion_folder(tmp_path / "disk/sd"), tmp_path / "away"
    (tmp_path / "models.toml").write_text(f'[models.mine]\nsource = "{disk}"\n')
    (tmp_path / "disk").rename(away)
    async with library(tmp_path) as f:
        held = f.app.state.library
        watcher = FolderWatcher([tmp_path / "models"], held.refresh, held.places)
        for _ in range(2):
            await watcher.look()
        assert (await f.get("/api/models/mine")).json()["reason"] == "source 'sd' is no folder"
        assert (await f.get("/api/models/mine", "admin")).json()["reason"] == f"source '{disk}' is no folder"

        away.rename(tmp_path / "disk")
        for _ in range(2):
            await watcher.look()
        assert [model["name"] for model in (await f.get("/api/models")).json()["models"]] == ["mine"]

        (disk / "vae/config.json").unlink()
        for _ in range(2):
            await watcher.look()
        assert (await f.get("/api/models/mine")).json()["missing"] == ["vae: config.json"]


async def test_a_served_model_is_shown_although_a_broken_one_would_have_its_name(tmp_path: Path) -> None:
    stable_diffusion_folder(tmp_path / "models/a-b")
    broken = stable_diffusion_folder(tmp_path / "models/A B")
    shutil.rmtree(broken / "vae")
    async with library(tmp_path) as f:
        assert (await f.get("/api/models/a-b")).json()["values"]["pipeline"] == "StableDiffusionPipeline"
        (refused,) = (await f.get("/api/models")).json()["refused"]
        assert refused["name"].startswith("a-b-")
