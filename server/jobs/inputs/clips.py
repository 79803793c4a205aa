"""Decodes a clip wholly with ffmpeg, and writes its pictures alone, without sound, metadata and other streams.

Runs in the process that decodes (`decode_worker.py`), which bounds the memory and the time that a file may take. The
coded pictures are copied as they are. Only a clip that players show turned, or stretched, is encoded anew, because what
reads the frames later would show it otherwise.
"""

from __future__ import annotations

import re
import resource
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from pipelines.child_process import TooMuchOutput, run, start
from server.jobs.inputs.decoded import Decoded, Refused

CODECS = frozenset({"h264", "hevc", "av1", "vp8", "vp9", "mpeg4"})
DECODERS = ",".join(sorted({*CODECS, "libdav1d"}))  # as ffmpeg calls them
CODEC_NAMES = "H.264, HEVC, AV1, VP8, VP9 or MPEG-4"
MAX_SIDE = 4096  # pixels
MAX_FRAMES = 3600  # a minute at 60 frames per second
MAX_PIXELS = 1_200_000_000  # of all frames together: 19 s of 1080p at 30 frames per second; some seconds of decoding
CPU_S = 25  # of ffmpeg; the largest clips take a third
MAX_BYTES = 3 << 30  # of ffmpeg's memory: 16 reference frames of 4K in 10 bits take 0.8 GB for each of two threads
LIMITS = {
    resource.RLIMIT_CPU: CPU_S,
    resource.RLIMIT_AS: MAX_BYTES,
}  # of ffmpeg
DEMUXERS = {"video/mp4": "mov", "video/webm": "matroska"}  # and not playlists, which would name other files
MUXERS = {
    "video/mp4": ("-movflags", "+faststart", "-f", "mp4"),
    "video/webm": ("-f", "webm"),
}
ENCODERS = {  # of quality that cannot be told from the clip's own
    "video/mp4": ("-c:v", "libx264", "-preset", "ultrafast", "-crf", "10", "-pix_fmt", "yuv420p"),
    "video/webm": ("-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8", "-crf", "12", "-b:v", "0"),
}
SQUARE_PIXELS = "scale=trunc(iw*sar/2)*2:trunc(ih/2)*2,setsar=1"
NOT_READ = "an MP4 or WebM clip that can be read and is not damaged"
NO_PICTURES = f"a clip with pictures, in {CODEC_NAMES}"
NO_FRAMES = "a clip with at least one frame"
TOO_LARGE = f"a clip of at most {MAX_SIDE:,} pixels on a side"
TOO_LONG = f"a clip of at most {MAX_FRAMES:,} frames, and at most {MAX_PIXELS:,} pixels in all frames together"
VIDEO = re.compile(r"^ *Stream #0:\d+.*?: Video: (?P<codec>\w+)(?P<rest>.*)", re.MULTILINE)
SIZE = re.compile(r", (\d{1,9})x(\d{1,9})")
STRETCHED = re.compile(r"SAR (?!(\d+):\1 )(?!0:)")  # as the codec says, or the container
LENGTH = re.compile(r"Duration: (\d+):(\d\d):(\d\d(?:\.\d+)?)")
RATE = re.compile(r", ([\d.]+)(k?) fps")
TURNED = re.compile(r"^ *display ?matrix: rotation of (?!-?0\.00)", re.MULTILINE | re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class _Header:
    """What the file says about itself."""

    needs_encoding: bool
    fps: Fraction | None


@dataclass(slots=True)
class _Frames:
    """What was decoded."""

    width: int = 0
    height: int = 0
    time_base: Fraction = Fraction(1)
    n: int = 0
    first: int = 0  # in units of `time_base`
    end: int = 0


def write_clip(ffmpeg: str, mime_type: str, source: Path, target: Path) -> Decoded:
    """Raises `Refused`, and `OSError` when ffmpeg cannot be started."""
    opened = [ffmpeg, "-hide_banner", "-nostdin", "-y", *_safe_input(mime_type, source)]
    header = _read_header(opened)
    copied = ENCODERS[mime_type] if header.needs_encoding else ("-c", "copy")
    turned = ("-vf", SQUARE_PIXELS) if header.needs_encoding else ()
    pictures = ("-map", "0:V:0", "-fps_mode", "passthrough", *turned)
    without_metadata = ("-map_metadata", "-1", "-map_chapters", "-1", "-fflags", "+bitexact")
    checked = (*pictures, "-f", "framecrc", "pipe:1")
    kept = (*pictures, *copied, "-threads", "2", *without_metadata, *MUXERS[mime_type], f"file:{target}")
    frames = _decode([*opened, *checked, *kept])
    length = (frames.end - frames.first) * frames.time_base
    fps = frames.n / length if length > 0 and frames.n > 1 else header.fps or Fraction(1)
    return Decoded(mime_type, frames.width, frames.height, frames.n, round(float(fps), 6))


def _safe_input(mime_type: str, source: Path) -> Sequence[str]:
    return (
        "-xerror", "-threads", "2", "-protocol_whitelist", "file", "-f", DEMUXERS[mime_type],
        "-codec_whitelist", DECODERS, "-max_pixels", str(MAX_SIDE * MAX_SIDE), "-i", f"file:{source}",
    )  # fmt: skip


def _read_header(opened: Sequence[str]) -> _Header:
    try:
        done = run(opened, timeout_s=None, limits=LIMITS, own_group=False)  # fails: it names no output
    except TooMuchOutput as error:
        raise Refused(NOT_READ) from error
    text = done.stderr[: 1 << 20].decode(errors="replace")
    if "Input #0" not in text:
        raise Refused(NOT_READ)
    video = next((found for found in VIDEO.finditer(text) if "(attached pic)" not in found["rest"]), None)
    if video is None or video["codec"] not in CODECS:
        raise Refused(NO_PICTURES)
    size, rate, length = SIZE.search(video["rest"]), RATE.search(video["rest"]), LENGTH.search(text)
    if size is None:
        raise Refused(NOT_READ)
    width, height = int(size[1]), int(size[2])
    if max(width, height) > MAX_SIDE:
        raise Refused(TOO_LARGE)
    fps = Fraction(rate[1]) * (1000 if rate[2] else 1) if rate else None
    if fps and length:
        seconds = int(length[1]) * 3600 + int(length[2]) * 60 + Fraction(length[3])
        if seconds * fps > 1.1 * _max_frames(width, height):  # a header may say a little too much
            raise Refused(TOO_LONG)
    needs_encoding = STRETCHED.search(video["rest"]) is not None or TURNED.search(text) is not None
    return _Header(needs_encoding, fps or None)


def _decode(command: Sequence[str]) -> _Frames:
    """Runs ffmpeg, which prints a line for each frame."""
    frames = _Frames()
    quiet = [*command[:1], "-v", "error", *command[1:]]
    with start(quiet, limits=LIMITS, stdout=subprocess.PIPE, own_group=False) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                _count(line.decode(errors="replace"), frames)
        finally:
            process.kill()  # unless it has ended
    if process.returncode != 0:
        raise Refused(NOT_READ)
    if not frames.n:
        raise Refused(NO_FRAMES)
    return frames


def _count(line: str, frames: _Frames) -> None:
    """Reads a line of the form `framecrc`: "#tb 0: 1/25", "#dimensions 0: 64x48", or a frame's numbers."""
    name, _, value = line.partition(" 0: ")
    if name == "#tb":
        frames.time_base = Fraction(value.strip())
    elif name == "#dimensions":
        frames.width, frames.height = map(int, value.split("x"))
        if max(frames.width, frames.height) > MAX_SIDE:
            raise Refused(TOO_LARGE)
    elif not line.startswith("#"):
        _, _, at, duration, *_ = line.split(",")
        frames.first = min(frames.first, int(at)) if frames.n else int(at)
        frames.end = max(frames.end, int(at) + int(duration))
        frames.n += 1
        if frames.n > _max_frames(frames.width, frames.height):
            raise Refused(TOO_LONG)


def _max_frames(width: int, height: int) -> int:
    return min(MAX_FRAMES, MAX_PIXELS // max(1, width * height))
