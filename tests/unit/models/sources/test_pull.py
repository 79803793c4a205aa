"""A pull resumes, names what is missing and outlives the server. The hub is a fake on this machine; no network."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from models.errors import BadConfig, FetchFailed
from models.sources.url import fetch_url, parse_address
from server.library.pulls import Pull
from tests.support.checkpoints import chat_folder, safetensors_bytes
from tests.support.fake_hub import Hub, fake_hub
from tests.support.http.library_front import library

pytestmark = pytest.mark.slow  # each pull is a process

BIG = safetensors_bytes({"weight": ("F16", [9 << 20], 18 << 20)})  # above the size from which we download ourselves
MIB = 1 << 20


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def repo(tmp_path: Path) -> dict[str, bytes]:
    folder = chat_folder(tmp_path / "upstream")
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    return {**files, "model.safetensors": BIG, "run_me.py": b"boom"}


def environment(hub: Hub, tmp_path: Path, **more: str) -> dict[str, str]:
    plain = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    return plain | {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1"} | more


def pull(source: str, tmp_path: Path, env: dict[str, str], *options: str) -> list[dict[str, Any]]:
    """Returns the lines that the child process wrote."""
    command = [sys.executable, "-m", "models.sources.pull", source, str(tmp_path), str(tmp_path / "cache"), *options]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.stdout, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_repository_arrives_in_the_hubs_own_cache_without_its_code(tmp_path: Path) -> None:
    with fake_hub({"owner/name": repo(tmp_path)}) as hub:
        lines = pull("owner/name", tmp_path, environment(hub, tmp_path))

    folder = Path(lines[-1]["path"])
    assert folder.is_relative_to(tmp_path / "hf/hub/models--owner--name/snapshots")
    assert sorted(path.name for path in folder.iterdir()) == [
        "chat_template.jinja", "config.json", "model.safetensors", "tokenizer.json"
    ]  # fmt: skip
    assert (folder / "model.safetensors").read_bytes() == BIG
    assert max(line.get("done", 0) for line in lines) > MIB
    assert not any("run_me" in path for path, _, _ in hub.requests)


def test_a_language_model_without_a_chat_template_is_refused_before_its_weights_are_downloaded(tmp_path: Path) -> None:
    files = {name: content for name, content in repo(tmp_path).items() if name != "chat_template.jinja"}
    with fake_hub({"owner/name": files}) as hub:
        env = environment(hub, tmp_path)
        refused = pull("owner/name", tmp_path, env, "--needs-chat-template")
        before = list(hub.resolved())
        allowed = pull("owner/name", tmp_path, env)

    assert refused[-1]["error"].startswith("has no chat template; ")
    assert "model.safetensors" not in before
    assert "path" in allowed[-1]


def test_the_error_tells_a_missing_network_from_the_offline_setting(tmp_path: Path) -> None:
    with fake_hub({}) as hub:
        env = environment(hub, tmp_path)
    gone = pull("owner/name", tmp_path, env)[-1]["error"]
    offline = pull("owner/name", tmp_path, env | {"HF_HUB_OFFLINE": "1"})[-1]["error"]

    assert "the model hub cannot be reached" in gone
    assert "HF_HUB_OFFLINE forbids" in offline


# Addresses


def silent(doing: str, done: int, total: int) -> None:
    pass


def test_a_file_at_a_web_address_is_verified_and_resumed(tmp_path: Path) -> None:
    with fake_hub({"files/here": {"model.safetensors": BIG}}) as hub:
        url = f"{hub.url}/files/here/model.safetensors"
        hub.repos["files/here"]["/files/here/model.safetensors"] = BIG
        hub.break_at = 3 * MIB
        good = parse_address(f"{url}#sha256={hashlib.sha256(BIG).hexdigest()}")
        path = fetch_url(good, tmp_path, silent, private=True)
        assert path.read_bytes() == BIG
        assert [part for _, part, _ in hub.requests][1] == f"bytes={3 * MIB}-"

        with pytest.raises(FetchFailed, match="wrong SHA-256"):
            fetch_url(parse_address(f"{url}#sha256={'0' * 64}"), tmp_path, silent, private=True)
        assert list(tmp_path.rglob("*.part")) == []


@pytest.mark.parametrize(
    "url",
    [
        "https://127.0.0.1/x.gguf",
        "https://localhost/x.gguf",
        "https://[::1]/x.gguf",
        "https://169.254.169.254/x.gguf",
        "http://1.1.1.1/x.gguf",
    ],
)
def test_an_address_of_the_own_network_is_not_connected_to(tmp_path: Path, url: str) -> None:
    with pytest.raises(FetchFailed, match=r"not a public address|only https"):
        fetch_url(parse_address(f"{url}#sha256={'0' * 64}"), tmp_path, silent)


@pytest.mark.parametrize(
    "source",
    [
        "https://x/y.safetensors",
        "https://x/y.bin#sha256=" + "0" * 64,
        "https://u:p@x/y.gguf#sha256=" + "0" * 64,
        "https://x/..%2fy.gguf#sha256=1",
    ],
)
def test_an_address_without_checksum_or_of_another_kind_of_file_is_refused(source: str) -> None:
    with pytest.raises(BadConfig):
        parse_address(source)


# In the server


@pytest.mark.anyio
async def test_a_pull_ends_in_the_catalogue_and_shows_its_progress(tmp_path: Path) -> None:
    with fake_hub({"files/here": {"/files/here/tiny.safetensors": BIG}}) as hub:
        async with library(tmp_path) as f:
            pulls = f.app.state.pulls
            pulls._arguments.append("--private")  # the fake hub has an address of this machine
            url = f"{hub.url}/files/here/tiny.safetensors#sha256={hashlib.sha256(BIG).hexdigest()}"
            started = (await f.post("/api/models/pull", {"source": url, "name": "tiny"}, "admin")).json()
            assert (started["state"], started["model"], started["freeBytes"]) == ("queued", "tiny", None)
            await pulls._pull(pulls.get(started["id"]))
            shown = (await f.get(f"/api/models/pulls/{started['id']}", "admin")).json()

    assert shown["needBytes"] == len(BIG) == shown["totalBytes"] == shown["doneBytes"]
    assert shown["freeBytes"] > 0
    # The download succeeds; the catalogue then refuses the file, because its family is unknown.
    assert shown["state"] == "failed"
    assert shown["error"].startswith("it was downloaded, but: ")


@pytest.mark.anyio
async def test_a_queued_pull_continues_after_a_restart_and_a_canceled_one_does_not(tmp_path: Path) -> None:
    async with library(tmp_path) as f:
        first = (await f.post("/api/models/pull", {"source": "owner/one"}, "admin")).json()
        again = (await f.post("/api/models/pull", {"source": "owner/one"}, "admin")).json()
        second = (await f.post("/api/models/pull", {"source": "owner/two"}, "admin")).json()
        assert again["id"] == first["id"]
        canceled = await f.post(f"/api/models/pulls/{second['id']}/cancel", {}, "admin")
        assert canceled.json()["state"] == "canceled"
        assert (await f.post("/api/models/pull", {"source": "/a/folder"}, "admin")).status_code == 400

    async with library(tmp_path) as f:
        pulls = f.app.state.pulls
        pulls._restore()
        states = {pull.source: pull.state for pull in pulls.all()}

    assert states == {"owner/one": "queued", "owner/two": "canceled"}
    assert all(isinstance(pull, Pull) for pull in pulls.all())
