"""The start makes the data folder usable, waits for room, and says in one line why it cannot be used."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from server.process import data_folder
from server.process.data_folder import prepare
from server.store.opening import StoreUnusable


def beat() -> None:
    pass


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_folder_is_made_for_its_user_alone(tmp_path: Path) -> None:
    os.close(prepare(tmp_path / "a" / "data", beat))
    assert mode_of(tmp_path / "a" / "data") == 0o700


def test_what_other_users_could_read_is_closed_to_them(tmp_path: Path) -> None:
    for name in ("link-secret", "agentname.db"):
        (tmp_path / name).write_bytes(bytes(32))
        (tmp_path / name).chmod(0o644)
    tmp_path.chmod(0o755)
    os.close(prepare(tmp_path, beat))
    assert [mode_of(tmp_path / name) for name in (".", "link-secret", "agentname.db")] == [0o700, 0o600, 0o600]


def test_a_second_server_is_kept_out_and_touches_nothing(tmp_path: Path) -> None:
    lock = prepare(tmp_path, beat)
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "unfinished" / "clip.mp4").write_bytes(b"x")
    with pytest.raises(StoreUnusable, match="Another server uses"):
        prepare(tmp_path, beat)
    assert (tmp_path / "unfinished" / "clip.mp4").exists()
    os.close(lock)
    os.close(prepare(tmp_path, beat))
    assert not (tmp_path / "unfinished" / "clip.mp4").exists()


def test_a_full_disk_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    faults = [OSError(errno.ENOSPC, "No space left on device")] * 3 + [None]
    monkeypatch.setattr(data_folder, "write_fault", lambda folder: faults.pop(0))
    beats: list[float] = []
    os.close(prepare(tmp_path, lambda: beats.append(0.0), beats.append))
    assert len(beats) == 6  # three times a beat and a pause


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.EIO])
def test_a_folder_that_cannot_be_written_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(data_folder, "write_fault", lambda folder: OSError(number, os.strerror(number)))
    with pytest.raises(StoreUnusable) as raised:
        prepare(tmp_path, beat)
    assert os.strerror(number) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_file_in_the_place_of_the_folder_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    with pytest.raises(StoreUnusable, match="cannot be used"):
        prepare(tmp_path / "data", beat)
