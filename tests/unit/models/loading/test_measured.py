"""What was measured survives a start, and a damaged file costs nothing but the measurements."""

from __future__ import annotations

from pathlib import Path

import pytest

from models.loading.measured import Measured


def test_facts_are_kept_for_other_processes(tmp_path: Path) -> None:
    one, other = Measured(tmp_path / "a" / "measured.json"), Measured(tmp_path / "a" / "measured.json")
    assert one.get("key") is None
    one.put("key", speed=2.0)
    other.put("other", speed=3.0)

    assert other.get("key") == {"speed": 2.0}
    assert Measured(tmp_path / "a" / "measured.json").get("other") == {"speed": 3.0}
    assert [file.name for file in (tmp_path / "a").iterdir()] == ["measured.json"]


@pytest.mark.parametrize("text", ["{", "[1]", '{"key": 1}'])
def test_a_damaged_file_is_as_none(tmp_path: Path, text: str) -> None:
    file = tmp_path / "measured.json"
    file.write_text(text)
    measured = Measured(file)
    assert measured.get("key") is None
    measured.put("key", speed=1.0)
    assert Measured(file).get("key") == {"speed": 1.0}


def test_a_folder_that_cannot_be_written_loses_nothing_now(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    measured = Measured(tmp_path / "file" / "measured.json")
    measured.put("key", speed=1.0)
    assert measured.get("key") == {"speed": 1.0}
