"""Clips of all kinds, made with ffmpeg, and damaged ones."""

from __future__ import annotations

import random
import subprocess
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import imageio_ffmpeg

from tests.support.odd_files.case import (
    CLIP_TOO_LARGE,
    CLIP_TOO_LONG,
    DAMAGED_CLIP,
    NO_PICTURES,
    Case,
    anything,
    either,
    refused,
    taken,
)

H264 = ("-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p")
VP9 = ("-c:v", "libvpx-vp9", "-cpu-used", "8", "-deadline", "realtime")
SIZE = (64, 48)


def source(size: str = "64x48", rate: int = 8, seconds: float = 1) -> tuple[str, ...]:
    return "-f", "lavfi", "-i", f"testsrc2=s={size}:r={rate}:d={seconds}"


SOUND = ("-f", "lavfi", "-i", "sine=d=1")


@cache
def clip(extension: str, *options: str, inputs: tuple[str, ...] = source(), given: bytes = b"") -> bytes:
    """given: a file that the inputs may name as GIVEN."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "given").write_bytes(given)
        named = [f"{folder}/given" if each == "GIVEN" else each for each in inputs]
        target = Path(folder) / f"made.{extension}"
        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", *named, *options, str(target)]
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
        return target.read_bytes()


def clips() -> Iterator[Case]:
    yield from _kinds()
    yield from _shapes()
    yield from _limits()
    yield from _damaged_clips()


def _kinds() -> Iterator[Case]:
    for name, data in {
        "mp4": clip("mp4", *H264),
        "mp4 with its index first": clip("mp4", *H264, "-movflags", "+faststart"),
        "mp4 in fragments": clip("mp4", *H264, "-movflags", "+frag_keyframe+empty_moov"),
        "mp4 of HEVC": clip("mp4", "-c:v", "libx265", "-preset", "ultrafast", "-x265-params", "log-level=none"),
        "mp4 of AV1": clip("mp4", "-c:v", "libaom-av1", "-cpu-used", "8"),
        "mp4 of MPEG-4": clip("mp4", "-c:v", "mpeg4"),
        "mp4 of 10 bits": clip("mp4", "-c:v", "libx264", "-pix_fmt", "yuv420p10le"),
        "mp4 of 4:4:4": clip("mp4", "-c:v", "libx264", "-pix_fmt", "yuv444p"),
        "mp4 with sound": clip("mp4", *H264, inputs=(*source(), *SOUND)),
        "mp4 with metadata": clip("mp4", *H264, "-metadata", "title=Stream #0:0: Video: h264, 1x1, 1 fps"),
        "webm": clip("webm", *VP9),
        "webm of VP8": clip("webm", "-c:v", "libvpx"),
        "webm of AV1": clip("webm", "-c:v", "libaom-av1", "-cpu-used", "8"),
        "webm with sound": clip("webm", *VP9, inputs=(*source(), *SOUND)),
        "webm half transparent": clip("webm", "-c:v", "libvpx-vp9", "-cpu-used", "8", "-pix_fmt", "yuva420p"),
    }.items():
        yield taken(name, data, SIZE, num_frames=8)
    yield refused("mp4 of sound alone", clip("mp4", inputs=SOUND), NO_PICTURES)
    yield refused("webm of sound alone", clip("webm", inputs=SOUND), NO_PICTURES)
    yield refused("mp4 of JPEGs", clip("mp4", "-c:v", "mjpeg", "-pix_fmt", "yuvj420p"), NO_PICTURES)
    cover = clip("png", "-frames:v", "1", "-update", "1")
    inputs = (*SOUND, "-f", "png_pipe", "-i", "GIVEN")
    song = clip(
        "mp4", "-map", "0", "-map", "1", "-c:v", "png", "-disposition:v", "attached_pic", inputs=inputs, given=cover
    )
    yield refused("mp4 of a song with a cover", song, NO_PICTURES)


def _shapes() -> Iterator[Case]:
    plain = clip("mp4", *H264)
    for degrees, size in ((90, (48, 64)), (180, SIZE), (270, (48, 64))):
        inputs = ("-display_rotation", str(degrees), "-i", "GIVEN")
        yield taken(
            f"mp4 turned by {degrees}", clip("mp4", "-c", "copy", inputs=inputs, given=plain), size, num_frames=8
        )
    yield taken("mp4 of wide pixels", clip("mp4", *H264, "-vf", "setsar=2"), (128, 48), num_frames=8)
    yield taken("webm of wide pixels", clip("webm", *VP9, "-vf", "setsar=2"), (128, 48), num_frames=8)
    uneven = ("-vf", "select='not(mod(n,3))+lt(n,20)'", "-fps_mode", "vfr")
    yield taken(
        "mp4 of uneven times", clip("mp4", *H264, *uneven, inputs=source(rate=25, seconds=2)), SIZE, num_frames=30
    )
    yield taken("mp4 of one frame", clip("mp4", *H264, "-frames:v", "1"), SIZE)
    yield taken("mp4 that begins late", clip("mp4", *H264, "-output_ts_offset", "5"), SIZE, num_frames=8)
    yield taken("mp4 of a tiny size", clip("mp4", *H264, inputs=source("16x16")), (16, 16), num_frames=8)
    yield refused("mp4 of no frames", clip("mp4", *H264, "-frames:v", "0"), NO_PICTURES, DAMAGED_CLIP)


def _limits() -> Iterator[Case]:
    large = clip("mp4", *H264, "-refs", "16", inputs=source("4096x2304"))
    yield taken("mp4 of 4096 x 2304 with 16 reference frames", large, (4096, 2304), num_frames=8)
    yield taken("mp4 4096 wide", clip("mp4", *H264, inputs=source("4096x16")), (4096, 16), num_frames=8)
    yield refused("mp4 4112 wide", clip("mp4", *H264, inputs=source("4112x16")), CLIP_TOO_LARGE)
    yield refused("mp4 4112 high", clip("mp4", *H264, inputs=source("16x4112")), CLIP_TOO_LARGE)
    yield taken("mp4 of 3600 frames", clip("mp4", *H264, inputs=source("16x16", 60, 60)), (16, 16), num_frames=3600)
    yield refused("mp4 of 3660 frames", clip("mp4", *H264, inputs=source("16x16", 60, 61)), CLIP_TOO_LONG)
    yield refused("mp4 of 9000 frames", clip("mp4", *H264, inputs=source("16x16", 60, 150)), CLIP_TOO_LONG)
    still = ("-f", "lavfi", "-i", "color=s=2048x2048:r=25:d=12")
    yield refused("mp4 of 1.3 billion pixels", clip("mp4", *H264, inputs=still), CLIP_TOO_LONG)


def _damaged_clips() -> Iterator[Case]:
    whole = clip("mp4", *H264, "-movflags", "+faststart")
    webm = clip("webm", *VP9)
    for percent in (5, 20, 40, 60, 80, 95, 99):
        yield either(f"mp4 cut at {percent} %", whole[: len(whole) * percent // 100], SIZE, DAMAGED_CLIP, NO_PICTURES)
        yield either(f"webm cut at {percent} %", webm[: len(webm) * percent // 100], SIZE, DAMAGED_CLIP, NO_PICTURES)
    yield refused("mp4 whose index is missing", clip("mp4", *H264)[:2000], DAMAGED_CLIP)
    rng = random.Random(18)
    for n in range(12):
        for name, good in (("mp4", whole), ("webm", webm)):
            data = bytearray(good)
            for _ in range(1 + n):
                data[rng.randrange(40, len(data))] ^= 1 << rng.randrange(8)
            yield anything(f"{name} with flipped bits {n}", bytes(data))
    at = whole.index(b"avc1\0\0\0\0") + 28
    huge = whole[:at] + b"\xff\xf0\xff\xf0" + whole[at + 4 :]
    yield either("mp4 that says it is 65,520 a side", huge, SIZE, CLIP_TOO_LARGE, DAMAGED_CLIP)
    yield taken("mp4 followed by a web page", whole + b"<html><script>alert(1)</script>", SIZE, num_frames=8)
