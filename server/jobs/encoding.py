"""Encodes frames into files: PNG, WebP and JPEG with Pillow; MP4, WebM and GIF with an ffmpeg process.

Worker pool only, because encoding takes long. Each file carries its metadata: `FileMetadata.parameters` where A1111 and
programs that read its files expect it, `FileMetadata.json` under the name "agentname" (in clips: as the comment).
"""

from __future__ import annotations

import io
import subprocess
import threading
import time
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

from pipelines.child_process import end, start
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

# Longest side in pixels that a format, or its encoder here, can hold; the others hold more than a model can make.
MAX_SIDE: Mapping[Format, int] = {"webp": 16_383, "jpeg": 65_500, "gif": 65_535, "mp4": 16_384, "webm": 65_536}

PNG_LEVEL = 4  # zlib: half the time of the default 6 for about 2 % more bytes
EXIF_IFD = 0x8769
EXIF_USER_COMMENT = 0x9286
FFMPEG_TIMEOUT_S = 300.0  # ten times what one minute of 1080p takes on two cores
FFMPEG_NICENESS = 10  # a step on the CPU ends with its slowest thread, which must not wait for the encoder

SOUND_ARGUMENTS: Mapping[str, Sequence[str]] = {
    "mp4": ("-c:a", "aac", "-b:a", "192k"),
    "webm": ("-c:a", "libopus", "-b:a", "160k"),
}
PAD_TO_EVEN = "pad=ceil(iw/2)*2:ceil(ih/2)*2"  # yuv420p halves both sides
FFMPEG_ARGUMENTS: Mapping[str, Sequence[str]] = {
    "mp4": ("-vf", PAD_TO_EVEN, "-c:v", "libx264", "-preset", "veryfast", "-crf", "17", "-pix_fmt", "yuv420p",
            "-movflags", "+faststart", "-f", "mp4"),
    "webm": ("-vf", PAD_TO_EVEN, "-c:v", "libvpx-vp9", "-crf", "24", "-b:v", "0", "-deadline", "good", "-cpu-used", "5",
             "-row-mt", "1", "-pix_fmt", "yuv420p", "-f", "webm"),
    "gif": ("-vf", "split[a][b];[a]palettegen=stats_mode=diff[p];[b][p]paletteuse=dither=bayer", "-loop", "0",
            "-f", "gif"),
}  # fmt: skip


class EncodingFailed(Exception):
    """The encoder is missing, has ended with an error, or took longer than `FFMPEG_TIMEOUT_S`."""


class InvalidFrames(Exception):
    """The frames contain NaN or infinity."""


@dataclass(frozen=True, slots=True)
class FileMetadata:
    """How an image or clip was made, as it is written into the file."""

    parameters: str  # text in the format of A1111
    json: str


def to_pixels(frames: NDArray[np.float32]) -> Pixels:
    """Converts floats in [0, 1] to bytes of the same shape, rounded as diffusers does. Raises `InvalidFrames`.

    frames: (F, H, W, 3), or (F, H, W, 4) with opacity.
    """
    if not np.isfinite(frames).all():
        raise InvalidFrames
    return np.asarray(np.rint(np.clip(frames, 0.0, 1.0) * 255.0), dtype=np.uint8)


def encode(
    pixels: Pixels, fmt: Format, metadata: FileMetadata, fps: int, path: Path, sound: Sound | None = None
) -> None:
    """Writes `pixels`, (F, H, W, 3) or (F, H, W, 4), to `path`; an image has F = 1.

    Raises `EncodingFailed`, `OSError`, and whatever Pillow raises for pixels that it cannot hold.

    sound: is cut at the end of the clip; a GIF has no sound.
    """
    match fmt:
        case "png" | "webp" | "jpeg":
            _write_image(pixels[0], fmt, metadata, path)
        case "frames":
            _write_zip(pixels, metadata, path, sound)
        case "mp4" | "webm" | "gif":
            with _ffmpeg_sound_input(
                sound if fmt in SOUND_ARGUMENTS else None, path.with_suffix(".f32")
            ) as sound_input:
                _run_ffmpeg(pixels, fmt, metadata, fps, path, sound_input)


def jpeg(pixels: Pixels) -> bytes:
    """A preview (H, W, 3) as JPEG, without metadata."""
    target = io.BytesIO()
    Image.fromarray(pixels).save(target, "JPEG", quality=85)
    return target.getvalue()


def _write_image(pixels: Pixels, fmt: ImageFormat, metadata: FileMetadata, target: Path | IO[bytes]) -> None:
    image = Image.fromarray(pixels)
    if fmt == "png":
        image.save(target, "PNG", compress_level=PNG_LEVEL, pnginfo=_png_text(metadata))
    elif fmt == "webp":
        image.save(target, "WEBP", quality=92, method=4, exif=_exif(metadata))
    else:
        image.convert("RGB").save(target, "JPEG", quality=92, subsampling=0, exif=_exif(metadata))


def _png_text(metadata: FileMetadata) -> PngInfo:
    info = PngInfo()
    info.add_text("parameters", metadata.parameters)  # Pillow writes iTXt where the text is not Latin-1
    info.add_text("agentname", metadata.json)
    return info


def _exif(metadata: FileMetadata) -> Image.Exif:
    exif = Image.Exif()
    # A1111 keeps its parameters here in formats without text chunks: eight bytes that name the encoding, then the text.
    # A JPEG segment holds 64 KiB.
    exif.get_ifd(EXIF_IFD)[EXIF_USER_COMMENT] = b"UNICODE\0" + metadata.parameters.encode("utf-16-be")[:60_000]
    return exif


def _write_zip(pixels: Pixels, metadata: FileMetadata, path: Path, sound: Sound | None) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for number, frame in enumerate(pixels):
            png = io.BytesIO()
            _write_image(frame, "png", metadata, png)
            archive.writestr(f"{number:05d}.png", png.getvalue())
        if sound is not None:
            archive.writestr("sound.wav", _wav(sound))
        archive.writestr("agentname.json", metadata.json)


def _wav(sound: Sound) -> bytes:
    """WAV with 16 bits per sample, which every program reads."""
    target = io.BytesIO()
    with wave.open(target, "wb") as file:
        file.setnchannels(len(sound.samples))
        file.setsampwidth(2)
        file.setframerate(sound.rate)
        file.writeframes(np.rint(np.clip(sound.samples.T, -1.0, 1.0) * 32767).astype("<i2").tobytes())
    return target.getvalue()


@contextmanager
def _ffmpeg_sound_input(sound: Sound | None, path: Path) -> Iterator[Sequence[str]]:
    """Yields the ffmpeg arguments that name the sound as an input file; the file exists until the block ends."""
    if sound is None:
        yield ()
        return
    try:
        path.write_bytes(np.clip(sound.samples.T, -1.0, 1.0).astype("<f4").tobytes())
        yield "-f", "f32le", "-ar", str(sound.rate), "-ac", str(len(sound.samples)), "-i", str(path)
    finally:
        path.unlink(missing_ok=True)


def _run_ffmpeg(
    pixels: Pixels, fmt: str, metadata: FileMetadata, fps: int, path: Path, sound_input: Sequence[str]
) -> None:
    count, height, width, _ = pixels.shape
    arguments = [
        "-y", "-loglevel", "error", "-f", "rawvideo", "-pix_fmt", "rgb24",
        "-s", f"{width}x{height}", "-r", str(fps), "-i", "pipe:0", *sound_input, *FFMPEG_ARGUMENTS[fmt],
        *((*SOUND_ARGUMENTS[fmt], "-t", f"{count / fps:.6f}") if sound_input else ("-an",)),
        "-metadata", f"comment={metadata.json}", str(path),
    ]  # fmt: skip
    try:
        command = [imageio_ffmpeg.get_ffmpeg_exe(), *arguments]
        process = start(command, niceness=FFMPEG_NICENESS, stdin=subprocess.PIPE)
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no ffmpeg
        raise EncodingFailed("ffmpeg cannot be started") from error
    killer = threading.Timer(FFMPEG_TIMEOUT_S, end, [process])
    killer.start()
    began = time.monotonic()
    try:
        _write_frames(process, pixels)
    finally:
        killer.cancel()
        if process.poll() is None:
            end(process)
            process.wait()
    if process.returncode != 0:
        if time.monotonic() - began >= FFMPEG_TIMEOUT_S:
            raise EncodingFailed(f"ffmpeg took longer than {FFMPEG_TIMEOUT_S:g} seconds")
        raise EncodingFailed(f"ffmpeg ended with code {process.returncode}")
    if not path.stat().st_size:
        raise EncodingFailed("ffmpeg wrote nothing")


def _write_frames(process: subprocess.Popen[bytes], pixels: Pixels) -> None:
    """Pipes the frames into ffmpeg and waits for its end."""
    assert process.stdin is not None
    try:
        with process.stdin as pipe:
            for frame in pixels:  # frame by frame, to avoid a copy of the whole clip
                pipe.write(np.ascontiguousarray(frame).data.cast("B"))
    except BrokenPipeError:
        pass  # ffmpeg ended early; its exit code reports that
    process.wait()
