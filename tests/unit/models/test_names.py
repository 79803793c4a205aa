"""A folder of any name gives its model a name that URLs, models.toml and a shell take as it is."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.model_entry import NAME
from models.names import slug, unused_name
from tests.support.catalogues import open_catalogue
from tests.support.checkpoints import chat_folder


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("SDXL Base 1.0", "sdxl-base-1.0"),
        ("..", "model"),
        ("!", "model"),
        ("détail-étendu", "detail-etendu"),
        ("Ünïcode!", "unicode-"),
        ("Straße Łódź Øre", "strasse-lodz-ore"),
        ("Model №5 ½", "model-no5-1-2"),
    ],
)
def test_a_folders_name_becomes_a_models_name_without_accents(folder: str, name: str) -> None:
    assert slug(folder) == name


@pytest.mark.parametrize(
    ("one", "other", "beginning"),
    [
        ("模型一", "模型二", "model-"),
        ("модель", "моделъ", "model-"),
        ("SDXL 模型一", "SDXL 模型二", "sdxl-"),
        ("x" * 70 + "a", "x" * 70 + "b", "x" * 57 + "-"),
    ],
)
def test_names_whose_letters_are_lost_or_cut_stay_apart_by_a_hash(one: str, other: str, beginning: str) -> None:
    names = {slug(one), slug(other)}

    assert len(names) == 2
    assert all(name.startswith(beginning) and NAME.fullmatch(name) for name in names)
    assert slug(one) == slug(one)


def test_the_two_ways_to_write_an_accent_give_one_name() -> None:
    for text in ("détail", "模型が"):  # macOS decomposes the names of files
        assert slug(unicodedata.normalize("NFC", text)) == slug(unicodedata.normalize("NFD", text))


@given(st.text(max_size=100))
def test_every_text_gives_a_valid_name(text: str) -> None:
    assert NAME.fullmatch(slug(text))


def test_a_taken_name_is_told_apart_by_the_folders_own_name_and_then_by_its_path(tmp_path: Path) -> None:
    first, second = tmp_path / "one" / "A B", tmp_path / "two" / "A B"
    used: list[str] = []
    for folder in (tmp_path / "a-b", first, second):
        folder.mkdir(parents=True)
        used.append(unused_name(folder, used))

    assert used[0] == "a-b"
    assert len(set(used)) == 3
    assert all(name.startswith("a-b-") for name in used[1:])


def test_two_folders_in_another_script_are_both_listed(tmp_path: Path) -> None:
    for name in ("模型一", "模型二"):
        chat_folder(tmp_path / "models" / name)

    catalogue = open_catalogue(tmp_path)

    assert catalogue.refused == ()
    assert len([name for name in catalogue.names() if name.startswith("model-")]) == 2
