"""Reads the first frame of a clip that this server keeps. Event loop only; ffmpeg runs in a process of its own."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path

import imageio_ffmpeg

from pipelines.child_process import run
from server.errors import Unavailable

MAX_BYTES = 64 << 20  # of the picture: 4096 × 4096 pixels that cannot be compressed
TIMEOUT_S = 30.0  # for one frame of a clip that was decoded wholly before, on a busy machine
AS_PNG = ("-frames:v", "1", "-f", "image2pipe", "-c:v", "png", "-threads", "1", "pipe:1")


async def first_frame(path: Path) -> bytes:
    """Returns it as PNG. Raises `Unavailable` when ffmpeg does not run."""
    return await asyncio.to_thread(_first_frame, path)


def _first_frame(path: Path) -> bytes:
    try:
        program = imageio_ffmpeg.get_ffmpeg_exe()
        command = [program, "-nostdin", "-loglevel", "error", "-i", str(path), *AS_PNG]
        done = run(command, timeout_s=TIMEOUT_S, max_output_bytes=MAX_BYTES)
        done.check_returncode()
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:  # RuntimeError: there is no ffmpeg
        raise Unavailable("The clip cannot be read at the moment.", retry_after_s=5) from error
    return done.stdout
