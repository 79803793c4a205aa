"""Frames to files: PNG, WebP and JPEG by Pillow, MP4, WebM and GIF by an ffmpeg process. Worker pool only: these take time.

What made a picture travels inside it: `Provenance.text` where A1111 and its readers look, `Provenance.json` as "agentname".
"""

from __future__ import annotations

import io
import os
import subprocess
import threading
import wave
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal, TypeAlias

import imageio_ffmpeg
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from pipelines.interface import Sound

ImageFormat: TypeAlias = Literal["png", "webp", "jpeg"]
VideoFormat: TypeAlias = Literal["mp4", "webm", "gif", "frames"]
Format: TypeAlias = ImageFormat | VideoFormat
Pixels: TypeAlias = NDArray[np.uint8]  # (H, W, 3) or (F, H, W, 3)

MIME_TYPES: Mapping[Format, str] = {
    "png": "image/png",
    "webp": "image/webp",
    "jpeg": "image/jpeg",
    "mp4": "video/mp4",
    "webm": "video/webm",
    "gif": "image/gif",
    "frames": "application/zip",
}
EXTENSIONS: Mapping[Format, str] = {
    "png": "png",
    "webp": "webp",
    "jpeg": "jpg",
    "mp4": "mp4",
    "webm": "webm",
    "gif": "gif",
    "frames": "zip",
}

PNG_LEVEL = 4  # zlib: half the time of the default 6 for about 2 % more bytes
EXIF_IFD = 0x8769
EXIF_USER_COMMENT = 0x9286
FFMPEG_TIMEOUT_S = 300.0  # ten times what a minute of 1080p takes on two cores
FFMPEG_NICENESS = 10  # a step on the CPU waits for the last of its threads: none should wait for the encoder

SOUND_ARGUMENTS: Mapping[str, Sequence[str]] = {
    "mp4": ("-c:a", "aac", "-b:a", "192k"),
    "webm": ("-c:a", "libopus", "-b:a", "160k"),
}
EVEN = "pad=ceil(iw/2)*2:ceil(ih/2)*2"  # yuv420p halves both sides
FFMPEG_ARGUMENTS: Mapping[str, Sequence[str]] = {
    "mp4": ("-vf", EVEN, "-c:v", "libx264", "-preset", "veryfast", "-crf", "17", "-pix_fmt", "yuv420p",
            "-movflags", "+faststart", "-f", "mp4"),
    "webm": ("-vf", EVEN, "-c:v", "libvpx-vp9", "-crf", "24", "-b:v", "0", "-deadline", "good", "-cpu-used", "5",
             "-row-mt", "1", "-pix_fmt", "yuv420p", "-f", "webm"),
    "gif": ("-vf", "split[a][b];[a]palettegen=stats_mode=diff[p];[b][p]paletteuse=dither=bayer", "-loop", "0", "-f", "gif"),
}  # fmt: skip


class EncodingFailed(Exception):
    """The encoder is missing, ended with an error or took too long."""


class InvalidFrames(Exception):
    """The model gave NaN or infinity: nothing that could be shown."""


@dataclass(frozen=True, slots=True)
class Provenance:
    text: str  # A1111's `parameters`
    json: str


def to_pixels(frames: NDArray[np.float32]) -> Pixels:
    """(F, H, W, 3), or 4 with opacity, float in [0, 1] → the same as bytes, rounded as diffusers does. Raises `InvalidFrames`."""
    if not np.isfinite(frames).all():
        raise InvalidFrames
    return np.asarray(np.rint(np.clip(frames, 0.0, 1.0) * 255.0), dtype=np.uint8)


def encode(
    pixels: Pixels, fmt: Format, provenance: Provenance, fps: int, path: Path, sound: Sound | None = None
) -> None:
    """Write `pixels` (F, H, W, 3 or 4) to `path`. Pictures are F = 1. Raises `EncodingFailed`, `OSError`.

    sound: cut where the clip ends; a GIF can hold none.
    """
    match fmt:
        case "png" | "webp" | "jpeg":
            _write_picture(pixels[0], fmt, provenance, path)
        case "frames":
            _write_zip(pixels, provenance, path, sound)
        case "mp4" | "webm" | "gif":
            with _raw_file(sound if fmt in SOUND_ARGUMENTS else None, path.with_suffix(".f32")) as heard:
                _run_ffmpeg(pixels, fmt, provenance, fps, path, heard)


def jpeg(colours: Pixels) -> bytes:
    """A small picture (H, W, 3) for a look in passing: quick, and without provenance."""
    target = io.BytesIO()
    Image.fromarray(colours).save(target, "JPEG", quality=85)
    return target.getvalue()


def _write_picture(pixels: Pixels, fmt: ImageFormat, provenance: Provenance, target: Path | IO[bytes]) -> None:
    picture = Image.fromarray(pixels)
    if fmt == "png":
        picture.save(target, "PNG", compress_level=PNG_LEVEL, pnginfo=_png_text(provenance))
    elif fmt == "webp":
        picture.save(target, "WEBP", quality=92, method=4, exif=_exif(provenance))
    else:
        picture.convert("RGB").save(target, "JPEG", quality=92, subsampling=0, exif=_exif(provenance))


def _png_text(provenance: Provenance) -> PngInfo:
    info = PngInfo()
    info.add_text("parameters", provenance.text)  # Pillow takes iTXt by itself where Latin-1 is not enough
    info.add_text("agentname", provenance.json)
    return info


def _exif(provenance: Provenance) -> Image.Exif:
    exif = Image.Exif()
    # Where A1111 keeps its `parameters` in formats without text chunks: eight bytes of code name, then the text.
    # A segment of JPEG holds 64 KiB, and the text is twice as long in UTF-16.
    exif.get_ifd(EXIF_IFD)[EXIF_USER_COMMENT] = b"UNICODE\0" + provenance.text.encode("utf-16-be")[:60_000]
    return exif


def _write_zip(pixels: Pixels, provenance: Provenance, path: Path, sound: Sound | None) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for number, frame in enumerate(pixels):
            png = io.BytesIO()
            _write_picture(frame, "png", provenance, png)
            archive.writestr(f"{number:05d}.png", png.getvalue())
        if sound is not None:
            archive.writestr("sound.wav", _wav(sound))
        archive.writestr("agentname.json", provenance.json)


def _wav(sound: Sound) -> bytes:
    """16 bits a sample: what every program reads."""
    target = io.BytesIO()
    with wave.open(target, "wb") as file:
        file.setnchannels(len(sound.samples))
        file.setsampwidth(2)
        file.setframerate(sound.rate)
        file.writeframes(np.rint(np.clip(sound.samples.T, -1.0, 1.0) * 32767).astype("<i2").tobytes())
    return target.getvalue()


@contextmanager
def _raw_file(sound: Sound | None, path: Path) -> Iterator[Sequence[str]]:
    """The sound in a file that ffmpeg can read beside its pipe, as arguments that name it."""
    if sound is None:
        yield ()
        return
    try:
        path.write_bytes(np.clip(sound.samples.T, -1.0, 1.0).astype("<f4").tobytes())
        yield "-f", "f32le", "-ar", str(sound.rate), "-ac", str(len(sound.samples)), "-i", str(path)
    finally:
        path.unlink(missing_ok=True)


def _run_ffmpeg(pixels: Pixels, fmt: str, provenance: Provenance, fps: int, path: Path, heard: Sequence[str]) -> None:
    count, height, width, _ = pixels.shape
    command = [
        imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-loglevel", "error", "-f", "rawvideo", "-pix_fmt", "rgb24",
        "-s", f"{width}x{height}", "-r", str(fps), "-i", "pipe:0", *heard, *FFMPEG_ARGUMENTS[fmt],
        *((*SOUND_ARGUMENTS[fmt], "-t", f"{count / fps:.6f}") if heard else ("-an",)),
        "-metadata", f"comment={provenance.json}", str(path),
    ]  # fmt: skip
    try:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    except OSError as error:
        raise EncodingFailed("ffmpeg cannot be started") from error
    os.setpriority(os.PRIO_PROCESS, process.pid, FFMPEG_NICENESS)
    killer = threading.Timer(FFMPEG_TIMEOUT_S, process.kill)
    killer.start()
    try:
        _feed(process, _frames(pixels))
    finally:
        killer.cancel()
        if process.poll() is None:
            process.kill()
            process.wait()
    if process.returncode != 0:
        raise EncodingFailed(f"ffmpeg ended with code {process.returncode}")


def _frames(pixels: Pixels) -> Iterator[memoryview]:
    for frame in pixels:  # one by one: a long clip is not copied as a whole
        yield np.ascontiguousarray(frame).data.cast("B")


def _feed(process: subprocess.Popen[bytes], frames: Iterator[memoryview]) -> None:
    assert process.stdin is not None
    try:
        with process.stdin as pipe:
            for frame in frames:
                pipe.write(frame)
    except BrokenPipeError:
        pass  # it ended early; the exit code says so
    process.wait()
