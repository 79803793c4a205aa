"""`check` prints what a model is and whether it can be served, without a server; its exit code says the same."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.support.checkpoints import stable_diffusion_folder
from tests.support.http.command_line import run, use_folder


@pytest.fixture(autouse=True)
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_folder(monkeypatch, tmp_path)
    monkeypatch.setenv("AGENTNAME_DEVICE", "cpu")
    monkeypatch.setenv("AGENTNAME_PORT", "1")  # no server answers there


def test_a_sound_folder_ends_with_0(tmp_path: Path) -> None:
    folder = stable_diffusion_folder(tmp_path / "模型 sd")

    result = run("check", str(folder))

    assert result.exit_code == 0, result.output
    assert "image, StableDiffusionPipeline" in result.stdout
    assert "diffusion_pytorch_model.safetensors (" in result.stdout
    assert "It can be served. Its weights take 64 B on the device" in result.stdout
    assert "free: it fits." in result.stdout


def test_a_folder_that_lacks_a_part_ends_with_1_and_names_it(tmp_path: Path) -> None:
    folder = stable_diffusion_folder(tmp_path / "sd")
    shutil.rmtree(folder / "vae")

    result = run("check", str(folder))

    assert result.exit_code == 1
    assert "It cannot be served, it is incomplete: has not all of its files: vae: the folder." in result.stdout


def test_json_is_one_object(tmp_path: Path) -> None:
    result = run("check", str(stable_diffusion_folder(tmp_path / "sd")), "--json")

    report = json.loads(result.stdout)
    assert (report["servable"], report["state"], report["device"]["name"]) == (True, "ready", "cpu")
    assert run("check", "/nowhere", "--json").exit_code == 1
