"""A pull through the server pins what it downloaded, and changes a pin only when it is asked to. The hub is a fake."""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.fake_hub import COMMIT, Hub, fake_hub
from tests.support.http.front import Front
from tests.support.http.library_front import library, patch
from tests.support.hub_repositories import Files, fill, language_model

pytestmark = [pytest.mark.slow, pytest.mark.anyio]  # each pull is a process


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def llama() -> Files:
    names = [
        "README.md",
        "chat_template.jinja",
        "config.json",
        "model.safetensors",
        "pytorch_model.bin",
        "tokenizer.json",
    ]
    return language_model("LlamaForCausalLM", "llama", names)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with fake_hub({"owner/name": llama()}) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield hub


async def pull(f: Front, **body: Any) -> dict[str, Any]:
    """Pulls and returns the last state of the pull."""
    started = (await f.post("/api/models/pull", body, "admin")).json()
    pulls = f.app.state.pulls
    await pulls._pull(pulls.get(started["id"]))
    return dict((await f.get(f"/api/models/pulls/{started['id']}", "admin")).json())


def entry(folder: Path, name: str) -> dict[str, Any]:
    return dict(tomllib.loads((folder / "models.toml").read_text())["models"][name])


async def test_a_pull_pins_the_commit_and_a_later_one_moves_the_pin_and_says_so(tmp_path: Path, hub: Hub) -> None:
    async with library(tmp_path) as f:
        first = await pull(f, source="owner/name", defaults={"max_tokens": 7})
        assert (first["state"], first["error"], first["note"]) == ("completed", None, None)
        assert (first["revision"], first["model"]) == (COMMIT, "name")
        assert 0 < first["needBytes"] <= first["totalBytes"] == first["doneBytes"] < first["freeBytes"]
        assert entry(tmp_path, "name") == {"source": "owner/name", "revision": COMMIT, "defaults": {"max_tokens": 7}}

        newer = hub.push("owner/name", llama() | {"generation_config.json": b"{}"})
        await f.app.state.library.refresh()
        assert f.app.state.library.get("name").path.name == COMMIT, "what changes upstream changes nothing here"

        second = await pull(f, source="owner/name")
        assert second["note"] == f"its pinned revision changed from {COMMIT[:12]} to {newer[:12]}"
        assert f.app.state.library.get("name").path.name == newer
        assert entry(tmp_path, "name")["defaults"] == {"max_tokens": 7}

        assert (await pull(f, source="owner/name"))["note"] == f"its revision {newer[:12]} is up to date"


async def test_a_branch_is_pinned_to_what_it_means_now(tmp_path: Path, hub: Hub) -> None:
    commit = hub.push("owner/name", llama(), "refs/pr/3")
    async with library(tmp_path) as f:
        done = await pull(f, source="owner/name@refs/pr/3")
        assert (done["state"], done["model"], done["revision"]) == ("completed", "name", commit)
        assert entry(tmp_path, "name") == {"source": "owner/name@refs/pr/3", "revision": commit}
        hub.push("owner/name", llama(), "refs/pr/3")
        await f.app.state.library.refresh()
        assert f.app.state.library.get("name").path.name == commit


async def test_a_model_that_is_added_from_the_cache_is_pinned_too(tmp_path: Path, hub: Hub) -> None:
    async with library(tmp_path) as f:
        await pull(f, source="owner/name")
        added = await f.post("/api/models", {"source": "owner/name", "name": "again"}, "admin")
        assert added.status_code == 200, added.text
        assert entry(tmp_path, "again")["revision"] == COMMIT
        hub.push("owner/name", llama(), "main")
        await pull(f, source="owner/name")
        assert f.app.state.library.get("again").path.name == COMMIT


async def test_another_source_takes_no_pinned_commit_with_it(tmp_path: Path, hub: Hub) -> None:
    hub.repos["owner/other"] = llama()
    newer = hub.push("owner/other", llama())
    async with library(tmp_path) as f:
        await pull(f, source="owner/name")
        await pull(f, source="owner/other")
        changed = await patch(f, "/api/models/name", {"source": "owner/other"})
        assert changed.status_code == 200, changed.text
        assert entry(tmp_path, "name")["revision"] == newer


async def test_a_name_that_belongs_to_another_source_is_refused_before_a_download(tmp_path: Path, hub: Hub) -> None:
    async with library(tmp_path) as f:
        await pull(f, source="owner/name")
        n_requests = len(hub.requests)
        refused = await f.post("/api/models/pull", {"source": "owner/other", "name": "name"}, "admin")

    assert refused.status_code == 409
    assert "from another source already" in refused.json()["error"]
    assert len(hub.requests) == n_requests


async def test_a_pinned_model_serves_without_the_hub_and_without_its_references(tmp_path: Path, hub: Hub) -> None:
    async with library(tmp_path) as f:
        await pull(f, source="owner/name")
    (tmp_path / "hub/models--owner--name/refs/main").unlink()
    hub.fail("/", 500, times=1000)
    async with library(tmp_path) as f:
        assert f.app.state.library.get("name").path.name == COMMIT


async def test_a_component_is_downloaded_and_becomes_no_model(tmp_path: Path, hub: Hub) -> None:
    names = ["config.json", "diffusion_pytorch_model.safetensors"]
    hub.repos["owner/unet"] = fill(names, {"config.json": {"_class_name": "UNet2DConditionModel"}})
    async with library(tmp_path) as f:
        done = await pull(f, source="owner/unet")
        assert done["state"] == "completed"
        assert done["note"] == "it is a component (UNet2DConditionModel) and no model of its own"
        assert f.app.state.library.declared() == []


async def test_a_controlnet_is_downloaded_and_becomes_an_adapter(tmp_path: Path, hub: Hub) -> None:
    names = ["config.json", "diffusion_pytorch_model.safetensors"]
    hub.repos["owner/sd-canny"] = fill(names, {"config.json": {"_class_name": "ControlNetModel"}})
    async with library(tmp_path) as f:
        done = await pull(f, source="owner/sd-canny")
        assert (done["state"], done["note"]) == ("completed", None)
        spec = f.app.state.library.get("sd-canny")
    assert (spec.type, spec.adapter, spec.control_types) == ("adapter", "controlnet", ("canny",))


async def test_a_model_of_one_file_is_added_under_that_files_name(tmp_path: Path, hub: Hub) -> None:
    hub.repos["owner/files"] = {"a.gguf": b"GGUF", "b.gguf": b"GGUF"}
    async with library(tmp_path) as f:
        done = await pull(f, source="owner/files")

    assert done["state"] == "failed"
    assert "owner/files:a.gguf (4 B), owner/files:b.gguf (4 B)" in done["error"]


async def test_a_model_whose_files_are_gone_from_the_cache_is_named_and_pulled_again(tmp_path: Path, hub: Hub) -> None:
    async with library(tmp_path) as f:
        await pull(f, source="owner/name")
    (tmp_path / "hub").rename(tmp_path / "elsewhere")
    async with library(tmp_path) as f:  # a start with the disk of the cache away
        refused = f.app.state.library.refused()["name"]
        assert refused.state == "incomplete"
        assert refused.reason == f"is not downloaded; try: agentname pull owner/name@{COMMIT}"
        assert (await pull(f, source="owner/name"))["note"] == f"its revision {COMMIT[:12]} is up to date"
        assert f.app.state.library.get("name").path.is_dir()


GARBAGE = {
    "no JSON": r"b'\xff\0\n'",
    "no object": r"b'5\n'",
    "another form": r"""b'{"path": "/", "revision": 5}\n'""",
    "half a message": """b'{"path": "/m", "sour'""",
    "a line without end": "b'x' * (1 << 20)",
    "deeply nested": r"b'[' * 60_000 + b'\n'",
    "nothing": "b''",
}


@pytest.mark.parametrize("kind", GARBAGE)
async def test_a_process_that_writes_garbage_fails_its_pull_alone(tmp_path: Path, hub: Hub, kind: str) -> None:
    stays_s = 0 if kind in ("half a message", "nothing") else 600
    async with library(tmp_path) as f:
        pulls = f.app.state.pulls
        whole = pulls._command
        pulls._command = [sys.executable, "-c", f"import os, time; os.write(1, {GARBAGE[kind]}); time.sleep({stays_s})"]
        failed = await pull(f, source="owner/other")
        assert failed["state"] == "failed"
        assert "no message" in failed["error"] or "without giving a reason" in failed["error"]

        pulls._command = whole
        assert (await pull(f, source="owner/name"))["state"] == "completed"
