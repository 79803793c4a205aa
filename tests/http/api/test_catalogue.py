"""The catalogue changes while the server runs: by the admin routes, by models.toml and by new folders."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from models.reading.model_reader import Declared, DirectReader
from models.reading.outcome import Outcome
from models.reading.read_model import ModelReading
from server.library.folder_watcher import FolderWatcher
from server.protocol import Forget, UnloadModel
from tests.support.catalogues import open_catalogue
from tests.support.checkpoints import ONE_F16, chat_folder, safetensors_bytes, stable_diffusion_folder
from tests.support.http.front import Front, front
from tests.support.http.library_front import library, patch

pytestmark = pytest.mark.anyio


async def names(f: Front) -> list[str]:
    return [model["name"] for model in (await f.get("/api/models")).json()["models"]]


class SlowReader(DirectReader):
    """Has read the entries of models.toml when it is asked for the third time."""

    asked = 0

    def declared(self, entries: Sequence[Declared], until: float) -> Sequence[Outcome | None]:
        self.asked += bool(entries)
        return super().declared(entries, until) if self.asked > 2 else [None] * len(entries)


async def test_a_model_whose_files_take_long_to_read_is_added_once_they_are_read(tmp_path: Path) -> None:
    source = stable_diffusion_folder(tmp_path / "a")
    reader = SlowReader(ModelReading(tmp_path, "float32"))
    async with front(tmp_path, catalogue=open_catalogue(tmp_path, reader=reader)) as f:
        added = await f.post("/api/models", {"name": "one", "source": str(source)}, "admin")

        assert added.status_code == 200, added.text
        assert await names(f) == ["one"]
        assert reader.asked == 3


async def test_a_model_is_added_changed_made_default_and_removed_without_a_restart(tmp_path: Path) -> None:
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
        assert (job.model, job.requests[0].steps) == ("b", 7)  # type: ignore[union-attr]  # an image

        await patch(f, "/api/models/b", {"defaults": {"steps": None}})
        assert (await f.get("/api/models/b")).json()["values"]["defaults.steps"] == 50

        assert (await f.delete("/api/models/b", "admin")).json() == {"name": "b", "removed": True}
        assert await names(f) == ["a"]
        assert f.engine.sent == [Forget("b")]
        assert (second / "model_index.json").is_file()
        assert (tmp_path / "models.toml").read_text().startswith("# mine\n")


async def test_a_job_of_a_removed_model_keeps_its_status(tmp_path: Path) -> None:
    stable_diffusion_folder(tmp_path / "a")
    async with library(tmp_path) as f:
        await f.post("/api/models", {"source": str(tmp_path / "a")}, "admin")
        job_id = await f.submit()
        await f.delete("/api/models/a", "admin")

        assert (await f.status(job_id))["model"] == "a"
        assert (await f.post("/api/generate", {"prompt": "x", "type": "image", "model": "a"})).status_code == 404


@pytest.mark.parametrize(
    ("body", "message"),
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
        ({"source": "owner/name"}, "is not downloaded; try: agentname pull owner/name"),
        ({"name": "x"}, "source is required"),
        ({"source": "{a}", "sauce": 1}, "did you mean source?"),
        ({"source": "{a}", "name": "../up"}, "name must be"),
    ],
)
async def test_an_invalid_model_is_refused_with_the_reason_and_changes_nothing(
    tmp_path: Path, body: dict[str, Any], message: str
) -> None:
    stable_diffusion_folder(tmp_path / "a")
    chat_folder(tmp_path / "c")
    pickled = stable_diffusion_folder(tmp_path / "pickled")
    (pickled / "unet/diffusion_pytorch_model.safetensors").rename(pickled / "unet/diffusion_pytorch_model.bin")
    sent = {
        key: value.format(a=tmp_path / "a", c=tmp_path / "c", pickled=pickled) if isinstance(value, str) else value
        for key, value in body.items()
    }
    (tmp_path / "models.toml").write_text("# nothing\n")
    async with library(tmp_path) as f:
        reply = await f.post("/api/models", sent, "admin")

        assert reply.status_code == 400
        assert message in reply.json()["error"]
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


async def test_adding_a_taken_name_and_removing_a_model_outside_models_toml_are_conflicts(tmp_path: Path) -> None:
    stable_diffusion_folder(tmp_path / "models/a")
    async with library(tmp_path) as f:
        assert (await f.post("/api/models", {"source": str(tmp_path / "models/a")}, "admin")).status_code == 409
        assert (await f.delete("/api/models/a", "admin")).status_code == 409
        assert (await f.delete("/api/models/b", "admin")).status_code == 404


# The watched folder


async def test_a_folder_becomes_a_model_once_its_files_stop_growing(tmp_path: Path) -> None:
    async with library(tmp_path) as f:
        watcher = FolderWatcher([tmp_path / "models"], f.app.state.library.refresh)
        await watcher.look()
        await watcher.look()
        folder = stable_diffusion_folder(tmp_path / "models/a")
        weights = folder / "unet/diffusion_pytorch_model.safetensors"
        weights.write_bytes(ONE_F16[:40])
        await watcher.look()
        weights.write_bytes(ONE_F16)  # the file has grown since the last look, so that it may be incomplete
        await watcher.look()
        assert await names(f) == []
        await watcher.look()
        assert await names(f) == ["a"]

        shutil.rmtree(folder)
        await watcher.look()
        await watcher.look()
        assert await names(f) == []
        assert f.engine.sent == [Forget("a")]


async def test_changed_weights_unload_a_model_and_changed_defaults_do_not(
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


async def test_an_invalid_models_toml_changes_nothing(tmp_path: Path) -> None:
    stable_diffusion_folder(tmp_path / "models/a")
    async with library(tmp_path) as f:
        (tmp_path / "models.toml").write_text("[models.a.defaults]\nstep = 3\n")
        await f.app.state.library.refresh()
        assert await names(f) == ["a"]
        assert (await f.get("/api/models/a")).json()["values"]["defaults.steps"] == 50


@pytest.mark.slow
def test_readers_see_a_consistent_catalogue_while_it_is_replaced(tmp_path: Path) -> None:
    """One thread reads while another replaces the catalogue ten times: every listed name can be looked up."""
    for name in ("a", "b"):
        chat_folder(tmp_path / "models" / name)
    catalogue = open_catalogue(tmp_path)
    stopped, seen = threading.Event(), []

    def read() -> None:
        while not stopped.is_set():
            seen.extend(catalogue.recall(name).name for name in catalogue.names())

    thread = threading.Thread(target=read)
    thread.start()
    for index in range(10):
        if index % 2:
            chat_folder(tmp_path / "models/b")
        else:
            shutil.rmtree(tmp_path / "models/b")
        catalogue.apply(catalogue.compare(catalogue.read()))
    stopped.set()
    thread.join()

    assert set(seen) == {"a", "b"}
