"""Reads the first frame of a clip that this server keeps. Event loop only; ffmpeg runs in a process of its own."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path

import imageio_ffmpeg

from server.errors import Unavailable

TIMEOUT_S = 30.0  # for one frame of a clip that was decoded wholly before, on a busy machine
AS_PNG = ("-frames:v", "1", "-f", "image2pipe", "-c:v", "png", "-threads", "1", "pipe:1")


async def first_frame(path: Path) -> bytes:
    """Returns it as PNG. Raises `Unavailable` when ffmpeg does not run."""
    return await asyncio.to_thread(_first_frame, path)


def _first_frame(path: Path) -> bytes:
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-nostdin", "-loglevel", "error", "-i", str(path), *AS_PNG]
    try:
        return subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=TIMEOUT_S).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise Unavailable("The clip cannot be read at the moment.", retry_after_s=5) from error
