"""`add`, `set`, `default`, `remove`, `show` and `pull` against a real server with a real catalogue, without network."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from models.catalogue import Catalogue
from models.starters import starters
from server.engine_status import LoadError, ModelStatus
from tests.support.checkpoints import chat_folder, safetensors_bytes, stable_diffusion_folder
from tests.support.fake_hub import COMMIT, fake_hub
from tests.support.http.command_line import run, use_server
from tests.support.http.served import Served, served

DENOISER = safetensors_bytes({"weight": ("F32", [4], 16)})


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    stable_diffusion_folder(tmp_path / "models/sd", unet=["diffusers", "UNet2DConditionModel"])
    catalogue = Catalogue.open(data_dir=tmp_path, cache_dir=tmp_path / "cache", builtin=tmp_path / "none")
    with served(tmp_path, catalogue=catalogue, private_pulls=True) as server:
        use_server(monkeypatch, server, "admin")
        yield server


def shown(name: str) -> dict[str, list[str]]:
    """Returns the table that `show` prints: key → value and origin."""
    result = run("show", name)
    assert result.exit_code == 0, result.output
    rows = [[cell for cell in line.split("  ") if cell.strip()] for line in result.stdout.splitlines()]
    return {row[0].strip(): [cell.strip() for cell in row[1:]] for row in rows if row}


def test_the_reason_of_a_failed_load_and_the_notes_of_a_model_are_shown(server: Served) -> None:
    error = LoadError("The model sd failed to load: a one-step trial failed.", "ValueError: odd shapes")
    failed = ModelStatus(
        "sd", "failed", 0, 0, "unproven", 0, None, load_error=error, notes=("Its EMA copy is unused.",)
    )
    server.soon(lambda: server.f.engine.publish(models=[failed]))

    printed = run("show", "sd").stdout
    assert "Note: Its EMA copy is unused." in printed
    assert "Last load: The model sd failed to load: a one-step trial failed. ValueError: odd shapes" in printed


@pytest.mark.slow
def test_a_folder_is_added_changed_made_default_shown_and_removed(server: Served, tmp_path: Path) -> None:
    elsewhere = stable_diffusion_folder(tmp_path / "elsewhere/My Model")

    added = run("add", str(elsewhere), "--name", "mine", "--set", "defaults.steps=7", "--set", "aliases=['ours']")

    assert (added.exit_code, added.stdout) == (0, "mine is added as a model for image.\n")
    assert shown("ours")["defaults.steps"] == ["7", "models.toml"]
    assert shown("mine")["defaults.guidance_scale"] == ["7.5", "checkpoint"]
    assert shown("mine")["keep_alive_s"][-1] == "default"

    changed = run("set", "mine", "defaults.steps=9", "defaults.negative_prompt=blurred, dark", "limits.max_steps=20")
    assert (changed.exit_code, changed.stdout) == (0, "mine is changed.\n")
    table = shown("mine")
    assert table["defaults.steps"] == ["9", "models.toml"]
    assert table["defaults.negative_prompt"] == ["blurred, dark", "models.toml"]
    assert table["limits.max_steps"] == ["20", "models.toml"]
    refused = run("set", "mine", "defaults.steps=")  # the checkpoint's 50
    assert "defaults.steps is 50, more than limits.max_steps, 20" in refused.stderr
    assert run("set", "mine", "defaults.steps=", "limits.max_steps=").exit_code == 0
    assert shown("mine")["defaults.steps"] == ["50", "checkpoint"]

    assert run("default", "mine").stdout == "mine is the default for image.\n"
    assert shown("mine")["default"] == ["True", "models.toml"]
    assert 'name = "sd"' not in (tmp_path / "models.toml").read_text()

    assert run("remove", "mine").stdout == "mine is removed. Its files are kept.\n"
    assert (elsewhere / "model_index.json").is_file()
    assert run("show", "mine").exit_code != 0


def test_a_model_is_named_after_its_folder_and_can_be_added_as_default(server: Served, tmp_path: Path) -> None:
    chat_folder(tmp_path / "elsewhere/Tiny_Llama")

    added = run("add", str(tmp_path / "elsewhere/Tiny_Llama"), "--default")

    assert added.stdout == "tiny_llama is added as a model for chat.\n"
    assert shown("tiny_llama")["default"] == ["True", "models.toml"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["add", "./nowhere"], "./nowhere does not exist."),
        (["add", "{models}/sd", "--name", "sd"], "There is a model sd already."),
        (["add", "{models}/sd", "--name", "Not A Name"], "name must be"),
        (["add", "{models}/sd", "--name", "x", "--set", "dtype=int3"], "dtype"),
        (["add", "{models}/sd", "--name", "x", "--set", "load.quantization=bnb-4bit"], "bnb-4bit needs a CUDA device"),
        (["add", "{models}/sd", "--name", "x", "--type", "video"], "is declared as video, its checkpoint is image"),
        (["add", "{models}/sd", "--name", "x", "--set", "steps"], "'steps' is not NAME=VALUE."),
        (["set", "sd", "defaults.stepps=3"], "unknown key 'stepps'. Did you mean 'steps'?"),
        (["set", "sd", "defaults.scheduler=Magic"], "defaults.scheduler"),
        (["set", "sd", "load.attention=flash"], "load.attention: flash needs a CUDA device"),
        (["set", "nobody", "defaults.steps=3"], "There is no model of that name."),
        (["default", "nobody"], "There is no model of that name."),
        (["remove", "sd"], "sd is not in models.toml"),
        (["show", "nobody"], "There is no model of that name."),
        (["pull"], "Name a source to pull, or use --suggest."),
        (["pull", "/etc/passwd"], "a folder is added, not pulled"),
        (["pull", "--suggest", "--vram", "1"], "Nothing on the list fits 1 GiB."),
    ],
)
def test_invalid_input_is_explained_and_changes_nothing(
    server: Served, tmp_path: Path, arguments: list[str], message: str
) -> None:
    result = run(*(argument.replace("{models}", str(tmp_path / "models")) for argument in arguments))

    assert result.exit_code != 0
    assert result.stdout == ""
    assert message in result.stderr
    assert "Traceback" not in result.output
    assert not (tmp_path / "models.toml").exists() or not (tmp_path / "models.toml").read_text().strip()


def test_a_key_without_the_scope_changes_nothing(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTNAME_API_KEY", server.f.keys["enterprise"])

    assert run("show", "sd").exit_code == 0
    for arguments in (["set", "sd", "defaults.steps=3"], ["default", "sd"], ["remove", "sd"], ["pull", "owner/name"]):
        assert run(*arguments).exit_code == 4


def test_a_broken_checkpoint_is_shown_with_its_reason(server: Served, tmp_path: Path) -> None:
    broken = stable_diffusion_folder(tmp_path / "models/broken")
    (broken / "unet/config.json").write_text("{")
    assert run("set", "sd", "defaults.steps=3").exit_code == 0  # the folders are read again

    result = run("show", "broken")

    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("broken is not served: ")


@pytest.mark.slow
def test_a_pull_downloads_verifies_and_adds_a_model(server: Served, tmp_path: Path) -> None:
    """Downloads a denoiser in one file from a server on this machine; the other components come from a folder."""
    with fake_hub({"files/here": {"/files/here/mine.safetensors": DENOISER}}) as hub, server.pulling():
        url = f"{hub.url}/files/here/mine.safetensors#sha256={hashlib.sha256(DENOISER).hexdigest()}"
        base = f"load.base={tmp_path / 'models/sd'}"

        result = run("pull", url, "--name", "one", "--set", base, "--set", "defaults.steps=7", "--default")

        assert (result.exit_code, result.stdout) == (0, "one is downloaded and added.\n"), result.stderr
        table = shown("one")
        assert table["source"][0] == url
        assert (table["defaults.steps"], table["default"]) == (["7", "models.toml"], ["True", "models.toml"])
        (file,) = (tmp_path / "cache").rglob("mine.safetensors")
        assert file.read_bytes() == DENOISER
        n_requests = len(hub.requests)
        assert run("pull", url, "--name", "again", "--set", base).stdout == "again is downloaded and added.\n"
        assert len(hub.requests) == n_requests, "a file that is on this machine is not downloaded again"


@pytest.mark.slow
def test_a_pull_from_the_hub_tells_its_size_and_the_free_disk_and_pins_the_commit(
    server: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {path.name: path.read_bytes() for path in chat_folder(tmp_path / "upstream").iterdir()}
    with fake_hub({"owner/small": files}) as hub, server.pulling():
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
        result = run("pull", "owner/small")

        assert (result.exit_code, result.stdout) == (0, "small is downloaded and added.\n"), result.stderr
        assert re.search(r"\d+ B to download, \d+\.\d [KMGT]iB free\.", result.stderr)
        assert shown("small")["revision"] == [COMMIT, "models.toml"]
        again = run("pull", "owner/small")
        assert again.stdout == f"small: its revision {COMMIT[:12]} is up to date.\n"


@pytest.mark.slow
def test_a_failed_pull_is_explained_and_adds_nothing(server: Served) -> None:
    with fake_hub({"files/here": {"/files/here/mine.safetensors": DENOISER}}) as hub, server.pulling():
        result = run("pull", f"{hub.url}/files/here/mine.safetensors#sha256={'0' * 64}", "--name", "one")

    assert (result.exit_code, result.stdout) == (1, "")
    assert "wrong SHA-256" in result.stderr
    assert "There is no model of that name." in run("show", "one").stderr


def test_suggestions_fit_the_device_and_have_a_licence(server: Served) -> None:
    result = run("pull", "--suggest", "--vram", "24")

    assert result.exit_code == 0
    for starter in starters(24.0):
        assert starter.source in result.stdout
        assert starter.licence in result.stdout
    assert "FLUX.1-schnell" not in result.stdout, "needs more than 24 GiB"


def test_suggestions_depend_on_the_memory_of_the_servers_device(server: Served) -> None:
    server.soon(server.f.engine.publish)  # a device of 8 GiB

    result = run("pull", "--suggest")

    assert result.exit_code == 0, result.output
    assert "Qwen3-0.6B" in result.stdout
    assert "Qwen3-8B" not in result.stdout
