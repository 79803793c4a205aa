"""Files of outputs: the exact pixels, written completely or not at all, and opened only by a valid link."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import os
import re
import stat
import subprocess
import wave
import zipfile
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from pipelines.interface import Sound
from server.jobs import encoding
from server.jobs.artifacts import Artifacts, new_id
from server.jobs.encoding import EncodingFailed, FileMetadata, Format, InvalidFrames

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
METADATA = FileMetadata("a red café 猫\nSteps: 3, Seed: 7", json.dumps({"prompt": "a red café 猫", "seed": 7}))


@pytest.fixture
def artifacts(tmp_path: Path) -> Artifacts:
    return Artifacts(tmp_path / "data", ThreadPoolExecutor(1), lambda: NOON)


def frames(count: int = 1, height: int = 24, width: int = 40) -> NDArray[np.float32]:
    return np.random.default_rng(0).random((count, height, width, 3), dtype=np.float32)


def save(  # type: ignore[no-untyped-def]  # returns a SavedFile
    artifacts: Artifacts, pixels: NDArray[np.float32], fmt: Format, fps: int | None = None, sound: Sound | None = None
):
    return asyncio.run(artifacts.save(new_id(), pixels, sound, fmt, METADATA, fps, "job_1"))


def test_png_holds_the_exact_pixels_and_both_text_chunks(artifacts: Artifacts) -> None:
    rendered = frames()

    saved = save(artifacts, rendered, "png")

    path = artifacts.path(saved.file_name)
    assert path is not None
    with Image.open(path) as image:
        assert np.array_equal(np.asarray(image), np.rint(rendered[0] * 255).astype(np.uint8))
        assert image.text["parameters"] == METADATA.parameters
        assert json.loads(image.text["agentname"])["seed"] == 7
    assert (saved.width, saved.height, saved.duration_s, saved.mime_type) == (40, 24, None, "image/png")
    assert saved.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert saved.n_bytes == path.stat().st_size


@pytest.mark.parametrize("fmt", ["webp", "jpeg"])
def test_lossy_images_carry_the_parameters_in_exif(artifacts: Artifacts, fmt: Format) -> None:
    saved = save(artifacts, frames(), fmt)

    with Image.open(artifacts.path(saved.file_name)) as image:
        comment = image.getexif().get_ifd(encoding.EXIF_IFD)[encoding.EXIF_USER_COMMENT]
        assert image.format == fmt.upper()
    assert comment == b"UNICODE\0" + METADATA.parameters.encode("utf-16-be")


@pytest.mark.parametrize(("fmt", "mode"), [("png", "RGBA"), ("webp", "RGBA"), ("jpeg", "RGB")])
def test_opacity_is_kept_in_the_formats_that_support_it(artifacts: Artifacts, fmt: Format, mode: str) -> None:
    saved = save(artifacts, np.concatenate([frames(), frames()[..., :1]], axis=-1), fmt)

    with Image.open(artifacts.path(saved.file_name)) as image:
        assert image.mode == mode


def test_mp4_is_h264_yuv420p_with_its_index_first_and_the_metadata_as_comment(artifacts: Artifacts) -> None:
    saved = save(artifacts, frames(6, 24, 40), "mp4", fps=4)

    path = artifacts.path(saved.file_name)
    assert path is not None
    content = path.read_bytes()
    about = subprocess.run(
        [imageio_ffmpeg.get_ffmpeg_exe(), "-i", path], capture_output=True, check=False
    ).stderr.decode()
    assert "h264" in about
    assert "yuv420p" in about
    assert "café 猫" in json.loads(about.split("comment         : ")[1].splitlines()[0])["prompt"]
    assert content.index(b"moov") < content.index(b"mdat")
    assert (saved.duration_s, saved.mime_type) == (1.5, "video/mp4")


@pytest.mark.parametrize(("fmt", "magic"), [("webm", b"\x1aE\xdf\xa3"), ("gif", b"GIF89a")])
def test_webm_and_gif_files_have_the_signature_of_their_format(artifacts: Artifacts, fmt: Format, magic: bytes) -> None:
    saved = save(artifacts, frames(4), fmt, fps=4)

    path = artifacts.path(saved.file_name)
    assert path is not None
    assert path.read_bytes().startswith(magic)


def test_odd_sizes_are_padded_for_mp4(artifacts: Artifacts) -> None:
    assert save(artifacts, frames(2, 23, 41), "mp4", fps=4).n_bytes > 0


def test_the_frames_format_is_a_zip_of_lossless_images(artifacts: Artifacts) -> None:
    rendered = frames(3)

    saved = save(artifacts, rendered, "frames", fps=4)

    with zipfile.ZipFile(artifacts.path(saved.file_name)) as archive:
        assert archive.namelist() == ["00000.png", "00001.png", "00002.png", "agentname.json"]
        last = np.asarray(Image.open(io.BytesIO(archive.read("00002.png"))))
    assert np.array_equal(last, np.rint(rendered[2] * 255).astype(np.uint8))


def tone(hertz: float, seconds: float, rate: int = 24_000) -> Sound:
    """A stereo tone on the left channel; the right channel is silent."""
    sine = 0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)
    return Sound(np.stack([sine, np.zeros_like(sine)]).astype(np.float32), rate)


def decoded_sound(path: Path) -> NDArray[np.float32]:
    """The sound of a file as ffmpeg decodes it: (N, 2) at 24 kHz."""
    command = [
        imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-i", str(path),
        "-vn", "-f", "f32le", "-ac", "2", "-ar", "24000", "-",
    ]  # fmt: skip
    return np.frombuffer(subprocess.run(command, check=True, capture_output=True).stdout, "<f4").reshape(-1, 2)


def n_frames(path: Path) -> int:
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-i", str(path), "-map", "0:v", "-f", "null", "-"]
    log = subprocess.run(command, check=True, capture_output=True, text=True).stderr
    return int(re.findall(r"frame= *(\d+)", log)[-1])


@pytest.mark.parametrize("fmt", ["mp4", "webm"])
@pytest.mark.parametrize("seconds", [1.0, 2.5])
def test_the_sound_is_cut_at_the_end_of_the_clip_and_adds_no_frames(
    artifacts: Artifacts, fmt: Format, seconds: float
) -> None:
    saved = save(artifacts, frames(6, 24, 40), fmt, 4, tone(1000, seconds))
    path = artifacts.path(saved.file_name)
    assert path is not None

    left, right = decoded_sound(path).T
    assert len(left) / 24_000 == pytest.approx(min(seconds, 1.5), abs=0.06)
    assert np.abs(np.fft.rfft(left)).argmax() * 24_000 / len(left) == pytest.approx(1000, abs=5)
    assert np.abs(right).max() < 0.02 < 0.4 < np.abs(left).max() < 0.7
    assert n_frames(path) == 6
    assert [file.suffix for file in path.parent.iterdir()] == [path.suffix], "the temporary sound file is removed"


def test_a_zip_of_frames_contains_the_sound_and_a_gif_has_none(artifacts: Artifacts) -> None:
    zipped = artifacts.path(save(artifacts, frames(6), "frames", 4, tone(1000, 1.5)).file_name)
    assert zipped is not None
    with zipfile.ZipFile(zipped) as archive, wave.open(archive.open("sound.wav")) as file:
        assert (file.getnchannels(), file.getframerate(), file.getnframes()) == (2, 24_000, 36_000)
    assert save(artifacts, frames(6), "gif", 4, tone(1000, 1.5)).n_bytes > 0


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_frames_with_nan_or_infinity_leave_no_file(artifacts: Artifacts, tmp_path: Path, bad: float) -> None:
    rendered = frames()
    rendered[0, 3, 3, 1] = bad

    with pytest.raises(InvalidFrames):
        save(artifacts, rendered, "png")

    assert files_under(tmp_path) == {"link-secret"}


@pytest.mark.parametrize("program", ["/nonexistent", "/bin/false"])
def test_an_encoder_that_is_missing_or_fails_leaves_no_file(
    artifacts: Artifacts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    monkeypatch.setattr(encoding.imageio_ffmpeg, "get_ffmpeg_exe", lambda: program)

    with pytest.raises(EncodingFailed):
        save(artifacts, frames(2), "mp4", fps=4)

    assert files_under(tmp_path) == {"link-secret"}


def test_an_encoder_that_hangs_is_killed(artifacts: Artifacts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hanging = tmp_path / "hang"
    hanging.write_text("#!/bin/sh\nexec sleep 60\n")
    hanging.chmod(0o700)
    monkeypatch.setattr(encoding.imageio_ffmpeg, "get_ffmpeg_exe", lambda: str(hanging))
    monkeypatch.setattr(encoding, "FFMPEG_TIMEOUT_S", 0.05)

    with pytest.raises(EncodingFailed):
        save(artifacts, frames(2), "mp4", fps=4)


def test_files_and_folders_are_closed_to_others(artifacts: Artifacts, tmp_path: Path) -> None:
    saved = save(artifacts, frames(), "png")

    path = artifacts.path(saved.file_name)
    assert path is not None
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "data" / "link-secret").stat().st_mode) == 0o600


def test_a_start_removes_files_that_the_store_does_not_know(tmp_path: Path) -> None:
    artifacts = Artifacts(tmp_path, ThreadPoolExecutor(1))
    known, orphan = (save(artifacts, frames(), "png").file_name for _ in range(2))

    restarted = Artifacts(tmp_path, ThreadPoolExecutor(1))
    removed = asyncio.run(restarted.sweep({known}))

    assert removed == 1
    assert files_under(tmp_path) == {known, "link-secret"}
    assert restarted.path(orphan) is None


def test_deleting_twice_is_allowed(artifacts: Artifacts) -> None:
    saved = save(artifacts, frames(), "png")

    for _ in range(2):
        asyncio.run(artifacts.delete([saved.file_name]))

    assert artifacts.path(saved.file_name) is None


def test_a_link_opens_its_own_output_until_it_expires(artifacts: Artifacts, tmp_path: Path) -> None:
    output_id, other = new_id(), new_id()
    expires, signature = (
        part.split("=")[1] for part in artifacts.sign(output_id, NOON + timedelta(hours=1)).split("&")
    )
    later = Artifacts(tmp_path / "data", ThreadPoolExecutor(1), lambda: NOON + timedelta(hours=2))

    assert artifacts.verify(output_id, expires, signature)
    assert not later.verify(output_id, expires, signature)
    assert not artifacts.verify(other, expires, signature)
    assert not artifacts.verify(output_id, str(int(expires) + 1), signature)


def test_a_link_that_another_secret_signed_is_refused(artifacts: Artifacts, tmp_path: Path) -> None:
    output_id = new_id()
    signed = Artifacts(tmp_path / "another server", ThreadPoolExecutor(1)).sign(output_id, NOON + timedelta(hours=1))
    expires, signature = (part.split("=")[1] for part in signed.split("&"))

    assert not artifacts.verify(output_id, expires, signature)


def test_a_file_is_synced_before_it_has_its_name_and_its_folder_after(
    artifacts: Artifacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync, synced = os.fsync, []

    def note(descriptor: int) -> None:
        synced.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    saved = save(artifacts, frames(), "png")

    path = artifacts.path(saved.file_name)
    assert path is not None
    assert synced == [path.parent.parent / "unfinished" / path.name, path.parent]


@pytest.mark.parametrize("expires", ["", "x", "-1", "1" * 5000, "１７９５５２１６００"])
def test_a_malformed_link_is_refused(artifacts: Artifacts, expires: str) -> None:
    assert not artifacts.verify(new_id(), expires, "é" * 24)


def files_under(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*") if path.is_file()}
