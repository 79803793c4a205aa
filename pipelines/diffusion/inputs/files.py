"""Reads the files of pictures and clips, which the server has decoded and checked once. Any thread but the device's."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Timer

import imageio_ffmpeg
from PIL import Image

from pipelines.child_process import end, start
from pipelines.diffusion_interface import MediaFile

CLIP_LIMIT_S = 120.0  # to decode one clip; the longest that is taken needs a few seconds
CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm"  # ffmpeg's names of MP4 and WebM: a playlist is neither
MAX_FRAMES = 2_000  # of one clip, whatever is asked for: far more than any model makes


class BadMedia(Exception):
    """A file is gone or damaged. The message may be shown to the client."""


def read_picture(file: MediaFile, name: str) -> Image.Image:
    """name: of the input, for the message. Raises `BadMedia`."""
    try:
        with Image.open(file.path, formats=("PNG",)) as picture:
            if picture.size != (file.width, file.height):  # before any of its pixels are decoded
                raise BadMedia(f"The file of {name} is not the one that was checked.")
            picture.load()
            return picture.copy()
    except FileNotFoundError as error:
        raise BadMedia(f"The file of {name} is gone.") from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise BadMedia(f"The file of {name} cannot be read.") from error


def read_frames(file: MediaFile, name: str, *, fps: float | None, n_frames: int | None) -> Iterator[Image.Image]:
    """The frames of a clip at the moments 0, 1/fps, 2/fps …; at most `n_frames`. Raises `BadMedia`.

    fps: None for the rate of the file. ffmpeg runs in a process of its own and may open nothing but files.
    """
    limit = min(n_frames or MAX_FRAMES, MAX_FRAMES)
    rate = ["-vf", f"fps={fps:g}:round=near"] if fps is not None else []
    command = [
        imageio_ffmpeg.get_ffmpeg_exe(), "-nostdin", "-loglevel", "error", "-protocol_whitelist", "file",
        "-format_whitelist", CONTAINERS,
        "-i", f"file:{file.path}", "-map", "0:v:0", *rate, "-frames:v", str(limit),
        "-f", "rawvideo", "-pix_fmt", "rgb24", "-",
    ]  # fmt: skip
    n_bytes = 3 * file.width * file.height
    n_read = 0
    with _running(command) as program:
        assert program.stdout is not None
        while n_read < limit and len(pixels := program.stdout.read(n_bytes)) == n_bytes:
            n_read += 1
            yield Image.frombytes("RGB", (file.width, file.height), pixels)
    if not n_read or program.returncode:
        raise BadMedia(f"The file of {name} cannot be read.")


@contextmanager
def _running(command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    with start(command, stdout=subprocess.PIPE) as program:
        timer = Timer(CLIP_LIMIT_S, end, [program])
        timer.start()
        try:
            yield program
            assert program.stdout is not None
            program.stdout.close()
            program.wait()  # here, where a time limit holds for one that does not end
        except BaseException:
            end(program)
            raise
        finally:
            timer.cancel()
