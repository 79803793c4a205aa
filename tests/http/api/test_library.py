"""The catalogue changes while it is served: by the admin's routes, by models.toml, by what is put into a folder."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

from server.library.folder_watcher import FolderWatcher
from server.protocol import Forget, UnloadModel
from tests.support.catalogues import open_catalogue
from tests.support.checkpoints import ONE_F16, chat_folder, safetensors_bytes, stable_diffusion_folder
from tests.support.front import Front
from tests.support.library_front import library, patch

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def names(f: Front) -> list[str]:
    return [model["name"] for model in (await f.get("/api/models")).json()["models"]]


async def test_a_folder_is_added_changed_made_default_and_removed_with_no_restart(tmp_path: Path) -> None:
    first, second = stable_diffusion_folder(tmp_path / "a"), stable_diffusion_folder(tmp_path / "b")
    (tmp_path / "models.toml").write_text("# mine\n")
    async with library(tmp_path) as f:
        assert await names(f) == []
        for folder in (first, second):
            reply = await f.post("/api/models", {"source": str(folder)}, "admin")
            assert reply.status_code == 200, reply.text
        assert await names(f) == ["a", "b"]

        changed = (await patch(f, "/api/models/b", {"defaults": {"steps": 7}, "aliases": ["bee"]})).json()
        assert (changed["values"]["defaults.steps"], changed["origins"]["defaults.steps"]) == (7, "models.toml")
        assert changed["origins"]["defaults.guidance_scale"] == "checkpoint"
        assert changed["origins"]["defaults.negative_prompt"] == "default"
        assert (await f.get("/api/models/bee")).json()["name"] == "b"

        await patch(f, "/api/models/b", {"default": True})
        job = f.engine.jobs[await f.submit()]
        assert (job.model, job.requests[0].steps) == ("b", 7)  # type: ignore[union-attr]  # a picture

        await patch(f, "/api/models/b", {"defaults": {"steps": None}})
        assert (await f.get("/api/models/b")).json()["values"]["defaults.steps"] == 50

        assert (await f.delete("/api/models/b", "admin")).json() == {"name": "b", "removed": True}
        assert await names(f) == ["a"]
        assert f.engine.sent == [Forget("b")]
        assert (second / "model_index.json").is_file()
        assert (tmp_path / "models.toml").read_text().startswith("# mine\n")


async def test_a_job_of_a_model_that_goes_away_is_still_known(tmp_path: Path) -> None:
    stable_diffusion_folder(tmp_path / "a")
    async with library(tmp_path) as f:
        await f.post("/api/models", {"source": str(tmp_path / "a")}, "admin")
        job_id = await f.submit()
        await f.delete("/api/models/a", "admin")

        assert (await f.status(job_id))["model"] == "a"
        assert (await f.post("/api/generate", {"prompt": "x", "type": "image", "model": "a"})).status_code == 404


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"source": "/nowhere/at/all"}, "/nowhere/at/all"),
        ({"source": "{a}", "defaults": {"step": 3}}, "unknown key 'step'. Did you mean 'steps'?"),
        ({"source": "{a}", "dtype": "int3"}, "dtype"),
        ({"source": "{a}", "type": "chat"}, "is declared as chat, its checkpoint is image"),
        ({"source": "{a}", "load": {"quantization": "bnb-4bit"}}, "bnb-4bit needs a CUDA device"),
        ({"source": "{a}", "load": {"base": "x/y"}}, "its base 'x/y' is not downloaded"),
        ({"source": "{a}", "load": {"attention": "magic"}}, "load.attention must be one of"),
        ({"source": "{c}", "load": {"offload": True}}, "load.offload is for image and video"),
        ({"source": "{pickled}"}, "weights only as pickle"),
        ({"source": "owner/name"}, "not downloaded yet"),
        ({"name": "x"}, "source is required"),
        ({"source": "{a}", "sauce": 1}, "did you mean source?"),
        ({"source": "{a}", "name": "../up"}, "name must be"),
    ],
)
async def test_what_cannot_be_added_is_refused_with_the_reason_and_leaves_no_trace(
    tmp_path: Path, body: dict[str, Any], words: str
) -> None:
    stable_diffusion_folder(tmp_path / "a")
    chat_folder(tmp_path / "c")
    pickled = stable_diffusion_folder(tmp_path / "pickled")
    (pickled / "unet/diffusion_pytorch_model.safetensors").rename(pickled / "unet/diffusion_pytorch_model.bin")
    said = {
        key: value.format(a=tmp_path / "a", c=tmp_path / "c", pickled=pickled) if isinstance(value, str) else value
        for key, value in body.items()
    }
    (tmp_path / "models.toml").write_text("# nothing\n")
    async with library(tmp_path) as f:
        reply = await f.post("/api/models", said, "admin")

        assert reply.status_code == 400
        assert words in reply.json()["error"]
        assert await names(f) == []
    assert (tmp_path / "models.toml").read_text() == "# nothing\n"


async def test_only_an_admin_changes_models(tmp_path: Path) -> None:
    folder = stable_diffusion_folder(tmp_path / "a")
    async with library(tmp_path) as f:
        replies = [
            await f.post("/api/models", {"source": str(folder)}),
            await f.post("/api/models/pull", {"source": "owner/name"}),
            await f.get("/api/models/pulls"),
            await patch(f, "/api/models/a", {"default": True}, "enterprise"),
            await f.delete("/api/models/a"),
        ]
        assert {reply.status_code for reply in replies} == {403}


async def test_a_name_that_is_taken_and_a_model_that_is_not_ours_to_remove_are_conflicts(tmp_path: Path) -> None:
    stable_diffusion_folder(tmp_path / "models/a")
    async with library(tmp_path) as f:
        assert (await f.post("/api/models", {"source": str(tmp_path / "models/a")}, "admin")).status_code == 409
        assert (await f.delete("/api/models/a", "admin")).status_code == 409
        assert (await f.delete("/api/models/b", "admin")).status_code == 404


# The watched folder


async def test_what_is_put_into_the_folder_is_a_model_once_its_files_stop_growing(tmp_path: Path) -> None:
    async with library(tmp_path) as f:
        watcher = FolderWatcher([tmp_path / "models"], f.app.state.library.refresh)
        await watcher.look()
        await watcher.look()
        folder = stable_diffusion_folder(tmp_path / "models/a")
        weights = folder / "unet/diffusion_pytorch_model.safetensors"
        weights.write_bytes(ONE_F16[:40])
        await watcher.look()
        weights.write_bytes(ONE_F16)  # it grew between two looks: it is not over yet
        await watcher.look()
        assert await names(f) == []
        await watcher.look()
        assert await names(f) == ["a"]

        shutil.rmtree(folder)
        await watcher.look()
        await watcher.look()
        assert await names(f) == []
        assert f.engine.sent == [Forget("a")]


async def test_other_weights_under_the_same_name_put_the_loaded_ones_out_and_other_defaults_do_not(
    tmp_path: Path,
) -> None:
    folder = stable_diffusion_folder(tmp_path / "models/a")
    async with library(tmp_path) as f:
        (folder / "unet/diffusion_pytorch_model.safetensors").write_bytes(safetensors_bytes({"w": ("F16", [9], 18)}))
        await f.app.state.library.refresh()
        assert f.engine.sent == [UnloadModel("a")]

        (tmp_path / "models.toml").write_text("[models.a.defaults]\nsteps = 3\n")
        await f.app.state.library.refresh()
        assert f.engine.sent == [UnloadModel("a")]
        assert (await f.get("/api/models/a")).json()["values"]["defaults.steps"] == 3


async def test_a_broken_checkpoint_is_shown_with_the_reason(tmp_path: Path) -> None:
    folder = stable_diffusion_folder(tmp_path / "models/a")
    (folder / "unet/diffusion_pytorch_model.safetensors").write_bytes(b"PK\x03\x04" + bytes(100))
    async with library(tmp_path) as f:
        shown = (await f.get("/api/models/a")).json()
        assert shown["state"] == "failed"
        assert "zip content" in shown["reason"]


async def test_a_models_toml_with_a_mistake_changes_nothing_until_it_is_mended(tmp_path: Path) -> None:
    stable_diffusion_folder(tmp_path / "models/a")
    async with library(tmp_path) as f:
        (tmp_path / "models.toml").write_text("[models.a.defaults]\nstep = 3\n")
        await f.app.state.library.refresh()
        assert await names(f) == ["a"]
        assert (await f.get("/api/models/a")).json()["values"]["defaults.steps"] == 50


@pytest.mark.slow
def test_readers_see_one_whole_snapshot_while_it_is_swapped(tmp_path: Path) -> None:
    """A thread reads while another swaps ten times: a name it was just told is always known."""
    for name in ("a", "b"):
        chat_folder(tmp_path / "models" / name)
    catalogue = open_catalogue(tmp_path)
    over, seen = threading.Event(), []

    def read() -> None:
        while not over.is_set():
            seen.extend(catalogue.recall(name).name for name in catalogue.names())

    thread = threading.Thread(target=read)
    thread.start()
    for index in range(10):
        if index % 2:
            chat_folder(tmp_path / "models/b")
        else:
            shutil.rmtree(tmp_path / "models/b")
        catalogue.apply(catalogue.read())
    over.set()
    thread.join()

    assert set(seen) == {"a", "b"}
