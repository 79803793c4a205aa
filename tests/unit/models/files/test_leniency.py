"""What the libraries load is accepted, and what they refuse is refused: entries, names, left-overs, JSON, shards."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from models.errors import BadModel, Incomplete
from models.files.json_files import parse_json, read_config
from models.files.model_index import components
from models.files.safety import check_path
from models.files.weight_files import variant, weight_files
from models.fingerprint import fingerprint
from models.lora_files import LoraFolder
from tests.support.catalogues import open_catalogue
from tests.support.checkpoints import ONE_F16, chat_folder, stable_diffusion_folder, write_json

APPLE_DOUBLE = bytes.fromhex("0005160700020000") + b"Mac OS X        " + bytes(200) + b"\xb0\xff"
LEFTOVERS = ("._config.json", "._diffusers.py", ".DS_Store", "Thumbs.db", "desktop.ini", "._model.safetensors")


# model_index.json


@pytest.mark.parametrize(
    "changes",
    [
        {"safety_checker": [None, "StableDiffusionSafetyChecker"]},
        {"safety_checker": [None, None]},
        {"mean": [0.5, 0.5]},
        {"labels": ["a", "b"]},  # two texts, and no component of the class
        {"something_else": ["some_library", "SomeClass"]},
        {"text_encoder_select_layers": [0, 1]},
        {"requires_safety_checker": True, "_name_or_path": "x", "_ignore_files": ["x"], "_diffusers_version": "0.3"},
    ],
)
def test_entries_that_diffusers_reads_or_ignores_are_accepted(tmp_path: Path, changes: dict[str, Any]) -> None:
    check_path(stable_diffusion_folder(tmp_path / "sd", **changes))


@pytest.mark.parametrize(
    "changes", [{"unet": ["diffusers", None]}, {"unet": ["a", "b", "c"]}, {"unet": "x"}, {"safety_checker": None}]
)
def test_entries_that_diffusers_fails_at_are_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    folder = stable_diffusion_folder(tmp_path / "sd", **changes)

    with pytest.raises(BadModel, match=next(iter(changes))):
        check_path(folder)


def test_values_of_the_class_are_no_components() -> None:
    index = {
        "_class_name": "Krea2Pipeline",
        "text_encoder_select_layers": ["a", "b"],
        "vae": ["diffusers", "AutoencoderKL"],
    }

    assert components(index) == {"vae": ("diffusers", "AutoencoderKL")}


# Left-overs


def test_what_file_managers_leave_behind_is_ignored_everywhere(tmp_path: Path) -> None:
    pipeline, chat = stable_diffusion_folder(tmp_path / "models/sd"), chat_folder(tmp_path / "models/llama")
    before = fingerprint(tmp_path / "models")
    for folder in (tmp_path / "models", pipeline, pipeline / "unet", pipeline / "vae", chat):
        for name in LEFTOVERS:
            (folder / name).write_bytes(APPLE_DOUBLE)
        (folder / ".cache/huggingface").mkdir(parents=True)
        (folder / "__MACOSX").mkdir()

    catalogue = open_catalogue(tmp_path)

    assert catalogue.names() == ["llama", "sd"]
    assert catalogue.refused == ()
    assert fingerprint(tmp_path / "models") == before


def test_left_overs_are_no_loras(tmp_path: Path) -> None:
    for name in ("ink.safetensors", "._ink.safetensors", ".hidden.safetensors"):
        (tmp_path / name).write_bytes(ONE_F16)

    assert LoraFolder(tmp_path).names() == ["ink"]


def test_a_stray_config_that_no_library_opens_does_not_refuse_a_model(tmp_path: Path) -> None:
    folder = stable_diffusion_folder(tmp_path / "sd")
    (folder / "unet/my_config_notes.json").write_text("{ not json")
    check_path(folder)

    (folder / "unet/config.json").write_text("{ not json")
    with pytest.raises(BadModel, match=r"config\.json is not valid JSON"):
        check_path(folder)


# Names and places


@pytest.mark.parametrize("name", ["with space", "模型 一", "détail", "x" * 200, "a%20b#c"])
def test_a_folder_of_any_name_is_read(tmp_path: Path, name: str) -> None:
    stable_diffusion_folder(tmp_path / "models" / name)

    (spec,) = open_catalogue(tmp_path).specs()

    assert spec.path == tmp_path / "models" / name


def test_a_snapshot_of_links_in_a_read_only_folder_is_read(tmp_path: Path) -> None:
    real = stable_diffusion_folder(tmp_path / "blobs/sd")
    snapshot = tmp_path / "models/snapshot"
    for path in real.rglob("*"):
        link = snapshot / path.relative_to(real)
        if path.is_file():
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(os.path.relpath(path, link.parent))
    (tmp_path / "models/linked").symlink_to(real)
    snapshot.chmod(0o555)

    catalogue = open_catalogue(tmp_path)
    snapshot.chmod(0o755)

    assert catalogue.names() == ["linked", "snapshot"]


# JSON


def test_json_is_read_as_the_libraries_read_it(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text('{"a": 1, "b": NaN, "c": -Infinity, "a": 2}')
    assert read_config(file)["a"] == 2  # Python's json, which both libraries use, takes the last value

    for text in ('\ufeff{"a": 1}', '{"a": 1,}', '// no\n{"a": 1}', '{"a": 1'):
        file.write_text(text, encoding="utf-8")
        with pytest.raises(BadModel, match=r"config\.json"):
            read_config(file)
    file.write_bytes('{"a": 1}'.encode("utf-16"))
    with pytest.raises(BadModel, match="not valid JSON"):
        read_config(file)


def test_a_doubled_key_is_refused_where_other_readers_could_take_the_first() -> None:
    with pytest.raises(BadModel, match="the same key twice"):
        parse_json(b'{"a": 1, "a": 2}', "x", unique=True)


# Weights


def index_of(folder: Path, stem: str, *shards: str) -> None:
    names = {str(i): shard for i, shard in enumerate(shards)}
    write_json(folder / f"{stem}.safetensors.index.json", {"metadata": {}, "weight_map": names})


def test_transformers_takes_a_whole_file_before_a_stale_index(tmp_path: Path) -> None:
    folder = chat_folder(tmp_path / "llama")
    index_of(folder, "model", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")

    check_path(folder)

    assert weight_files(folder) == [folder / "model.safetensors"]


def test_diffusers_takes_an_index_before_a_whole_file_and_needs_its_shards(tmp_path: Path) -> None:
    unet = stable_diffusion_folder(tmp_path / "sd") / "unet"
    write_json(unet / "config.json", {"_class_name": "UNet2DConditionModel"})
    index_of(unet, "diffusion_pytorch_model", "diffusion_pytorch_model-00001-of-00001.safetensors")

    with pytest.raises(Incomplete, match=r"diffusion_pytorch_model\.safetensors is not read while"):
        weight_files(unet)

    shard = unet / "diffusion_pytorch_model-00001-of-00001.safetensors"
    shard.write_bytes(ONE_F16)
    assert weight_files(unet) == [shard]


def test_each_component_may_have_its_weights_under_another_variant(tmp_path: Path) -> None:
    folder = stable_diffusion_folder(tmp_path / "sd")
    plain = folder / "unet/diffusion_pytorch_model.safetensors"
    plain.rename(plain.with_name("diffusion_pytorch_model.fp16.safetensors"))

    check_path(folder)

    assert [variant([folder / part]) for part in ("unet", "vae")] == ["fp16", None]


def test_a_folder_is_read_by_the_names_of_its_own_library(tmp_path: Path) -> None:
    for name in ("model.safetensors", "diffusion_pytorch_model.safetensors"):
        (tmp_path / name).write_bytes(ONE_F16)

    write_json(tmp_path / "config.json", {"_class_name": "AutoencoderKL"})
    assert [file.name for file in weight_files(tmp_path)] == ["diffusion_pytorch_model.safetensors"]
    write_json(tmp_path / "config.json", {"model_type": "clip_text_model"})
    assert [file.name for file in weight_files(tmp_path)] == ["model.safetensors"]
    write_json(tmp_path / "config.json", {"model_type": "x", "transformers_weights": "../secret.safetensors"})
    (tmp_path.parent / "secret.safetensors").write_bytes(ONE_F16)
    with pytest.raises(BadModel, match="outside its folder"):
        weight_files(tmp_path)


def test_a_folder_that_redirects_to_another_model_is_refused(tmp_path: Path) -> None:
    folder = chat_folder(tmp_path / "llama")
    write_json(folder / "adapter_config.json", {"base_model_name_or_path": "/somewhere/else"})

    with pytest.raises(BadModel, match="an adapter of another model"):
        check_path(folder)
