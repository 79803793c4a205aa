"""A LoRA is named as its file is, in any script and sub-folder; what is listed can be found, and nothing else."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import pytest

from models.errors import BadModel, UnknownModel
from models.lora_files import LoraFolder
from tests.support.checkpoints import safetensors_bytes

LORA = safetensors_bytes({"unet.x.lora_A.weight": ("F32", [2, 8], 64), "unet.x.lora_B.weight": ("F32", [8, 2], 64)})
NAMES = ("add detail xl (v2.0)", "détail", "_ink", "a+b", "100%", "[cute] & 'quoted'", "水墨画", "v1.5:beta", "a" * 240)


def put(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / f"{name}.safetensors").write_bytes(LORA)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_listed_can_be_found(tmp_path: Path, name: str) -> None:
    put(tmp_path, name)

    (listed,) = LoraFolder(tmp_path).names()

    assert listed == name
    assert LoraFolder(tmp_path).find(listed) == tmp_path / f"{name}.safetensors"


@pytest.mark.parametrize("on_disk", ["NFC", "NFD"])
@pytest.mark.parametrize("requested", ["NFC", "NFD"])
def test_accents_may_be_composed_or_not(tmp_path: Path, on_disk: str, requested: str) -> None:
    put(tmp_path, unicodedata.normalize(on_disk, "détail"))

    found = LoraFolder(tmp_path).find(unicodedata.normalize(requested, "détail"))

    assert found.exists()
    assert LoraFolder(tmp_path).names() == [unicodedata.normalize("NFC", "détail")]


def test_hidden_files_and_names_that_no_reply_can_hold_are_not_listed(tmp_path: Path) -> None:
    put(tmp_path, "ink", "._ink", ".hidden", "two\nlines", "back\\slash")
    put(tmp_path / ".cache", "cached")
    (tmp_path / os.fsdecode(b"caf\xe9.safetensors")).write_bytes(LORA)
    (tmp_path / "folder.safetensors").mkdir()

    assert LoraFolder(tmp_path).names() == ["ink"]
    with pytest.raises(UnknownModel):
        LoraFolder(tmp_path).find("._ink")


def test_a_lora_in_a_sub_folder_has_the_name_of_its_file(tmp_path: Path) -> None:
    put(tmp_path / "loras" / "styles" / "old", "wash")
    put(tmp_path / "elsewhere", "linked")
    (tmp_path / "loras" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "loras" / "styles" / "circle").symlink_to(tmp_path / "loras")

    folder = LoraFolder(tmp_path / "loras")

    assert folder.names() == ["linked", "wash"]
    assert folder.find("wash") == tmp_path / "loras/styles/old/wash.safetensors"
    for path in ("styles/old/wash", "../elsewhere/linked", "styles\\old\\wash"):
        with pytest.raises(UnknownModel):
            folder.find(path)


def test_one_name_in_two_sub_folders_is_refused_and_one_at_the_top_wins(tmp_path: Path) -> None:
    put(tmp_path / "a", "ink", "wash")
    put(tmp_path / "b", "ink")
    put(tmp_path, "wash")

    assert LoraFolder(tmp_path).names() == ["wash"]
    assert LoraFolder(tmp_path).find("wash") == tmp_path / "wash.safetensors"
    with pytest.raises(BadModel, match="ink is the name of 2 files in sub-folders of loras: rename all but one"):
        LoraFolder(tmp_path).find("ink")


def test_a_server_without_the_folder_has_no_loras(tmp_path: Path) -> None:
    assert LoraFolder(tmp_path / "loras").names() == []
