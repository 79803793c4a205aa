"""Files of pictures and clips are read as the server checked them, or fail with a message."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.diffusion.inputs import files
from pipelines.diffusion.inputs.files import BadMedia, read_frames, read_picture
from tests.support.lanes.picture_jobs import clip_file, frames, picture_file


def brightness(picture: Image.Image) -> float:
    return float(np.asarray(picture).mean())


def test_a_picture_is_read_as_it_is(tmp_path: Path) -> None:
    file = picture_file(tmp_path / "a.png", 20, 10, mode="RGBA")

    assert read_picture(file, "image").mode == "RGBA"
    with Image.open(file.path) as expected:
        assert np.array_equal(np.asarray(read_picture(file, "image")), np.asarray(expected))


def test_a_picture_that_is_gone_damaged_or_another_one_says_so(tmp_path: Path) -> None:
    file = picture_file(tmp_path / "a.png", 64, 64)
    with pytest.raises(BadMedia, match="The file of mask is not the one that was checked"):
        read_picture(replace(file, width=32), "mask")
    whole = Path(file.path).read_bytes()
    for damaged in (whole[: len(whole) // 2], b"\x89PNG\r\n\x1a\n" + b"\0" * 100, b"", b"GIF89a" + whole):
        Path(file.path).write_bytes(damaged)
        with pytest.raises(BadMedia, match="The file of image cannot be read"):
            read_picture(file, "image")
    with pytest.raises(BadMedia, match="The file of image is gone"):
        read_picture(replace(file, path=str(tmp_path / "none.png")), "image")


@pytest.mark.parametrize("suffix", ["mp4", "webm"])
def test_the_frames_of_a_clip_are_those_that_ffmpeg_decodes(tmp_path: Path, suffix: str) -> None:
    file = clip_file(tmp_path / f"a.{suffix}", 32, 16, 6)
    found = list(read_frames(file, "video", fps=None, n_frames=None))

    assert len(found) == 6
    for one, other in zip(found, frames(file), strict=True):
        assert np.array_equal(np.asarray(one), np.asarray(other))


def test_frames_are_taken_at_the_rate_of_the_model(tmp_path: Path) -> None:
    file = clip_file(tmp_path / "a.mp4", 32, 32, 16, fps=16)  # one second, which gets brighter
    all_frames = [brightness(frame) for frame in frames(file)]
    half = [brightness(frame) for frame in read_frames(file, "video", fps=8, n_frames=None)]

    assert len(half) == 8
    assert half == [pytest.approx(all_frames[2 * i], abs=6) for i in range(8)]
    assert len(list(read_frames(file, "video", fps=8, n_frames=5))) == 5
    assert len(list(read_frames(file, "video", fps=32, n_frames=None))) == 32


def test_a_clip_that_is_gone_or_damaged_says_so(tmp_path: Path) -> None:
    file = clip_file(tmp_path / "a.mp4", 32, 32, 4)
    Path(file.path).write_bytes(Path(file.path).read_bytes()[:200])
    for broken in (file, replace(file, path=str(tmp_path / "none.mp4"))):
        with pytest.raises(BadMedia, match="The file of video cannot be read"):
            list(read_frames(broken, "video", fps=None, n_frames=None))


def test_a_clip_that_names_other_files_is_not_followed(tmp_path: Path) -> None:
    playlist = tmp_path / "a.mp4"
    file = replace(clip_file(tmp_path / "b.mp4", 32, 32, 1), path=str(playlist))
    playlist.write_text("#EXTM3U\n#EXTINF:1,\nb.mp4\n#EXT-X-ENDLIST\n")

    with pytest.raises(BadMedia):
        list(read_frames(file, "video", fps=None, n_frames=None))


PROGRAMS = {
    "writes without end": "exec cat /dev/zero",
    "writes half a frame": "head -c 100 /dev/zero",
    "writes nothing and ends well": "exit 0",
    "closes its output and hangs": "head -c 4000 /dev/zero; exec 1>&-; exec sleep 600",
    "hangs": "exec sleep 600",
}


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_decoder_that_misbehaves_is_ended_and_its_clip_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    file = clip_file(tmp_path / "a.mp4", 32, 32, 4)
    decoder = tmp_path / "ffmpeg"
    decoder.write_text(f"#!/bin/sh\n{PROGRAMS[program]}\n")
    decoder.chmod(0o700)
    monkeypatch.setattr(files, "CLIP_LIMIT_S", 0.5)
    monkeypatch.setattr(files.imageio_ffmpeg, "get_ffmpeg_exe", lambda: str(decoder))
    with pytest.raises(BadMedia, match="The file of video cannot be read"):
        list(read_frames(file, "video", fps=None, n_frames=3))

    monkeypatch.undo()
    assert len(list(read_frames(file, "video", fps=None, n_frames=3))) == 3
