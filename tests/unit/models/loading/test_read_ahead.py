"""All chunks of a checkpoint's weights are read into the page cache; a missing file is left for the load to report."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest

from models.loading import read_ahead
from models.spec import ModelSpec
from tests.fakes import spec


def checkpoint(folder: Path) -> ModelSpec:
    (folder / "vae").mkdir(parents=True)
    (folder / "vae" / "weights.safetensors").write_bytes(b"v" * 10)
    (folder / "model.safetensors").write_bytes(b"m" * (read_ahead.CHUNK_BYTES + 5))
    (folder / "model.bin").write_bytes(b"never read")
    return dataclasses.replace(spec("m", "image"), path=folder)


def test_every_chunk_of_the_weights_that_is_not_in_memory_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    preadv = os.preadv

    def recording_preadv(descriptor: int, buffers: list[bytearray], offset: int, flags: int = 0) -> int:
        if flags:
            raise BlockingIOError("the read would wait for the disk")
        read.append(preadv(descriptor, buffers, offset))
        return read[-1]

    monkeypatch.setattr(os, "preadv", recording_preadv)
    read_ahead.read_ahead(checkpoint(tmp_path))

    assert read == [read_ahead.CHUNK_BYTES, 5, 10]


def test_a_checkpoint_larger_than_the_available_memory_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_ahead, "MEMORY_SHARE", 0.0)
    monkeypatch.setattr(read_ahead, "_read", lambda *_: pytest.fail("it was read"))

    read_ahead.read_ahead(checkpoint(tmp_path))


def test_a_single_file_is_read_and_a_missing_one_is_not_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Path] = []
    monkeypatch.setattr(read_ahead, "_read", lambda file, _: seen.append(file))
    file = tmp_path / "m.gguf"
    file.write_bytes(b"x")
    read_ahead.read_ahead(dataclasses.replace(spec("m", "image"), path=file))
    read_ahead.read_ahead(dataclasses.replace(spec("m", "image"), path=tmp_path / "gone.gguf"))

    assert seen == [file]
