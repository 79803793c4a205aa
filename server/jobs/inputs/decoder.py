"""Has files decoded by processes of their own (`decode_worker.py`), which are started at their first use.

A process that crashes, or takes too long, is replaced by another one. `decode` may be called on the event loop;
everything else runs on the threads here, one for each process.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import imageio_ffmpeg

from models.isolation.child import Ended
from models.isolation.children import Children, Closed
from server.errors import Unavailable
from server.jobs.inputs.decoded import Decoded, Refused

logger = logging.getLogger(__name__)

PROCESSES = 2  # so that a clip does not keep a picture waiting
WALL_S = 60.0  # for one file, on a busy machine; the process itself limits its processor time
KEPT_TYPES = ("image/png", "video/mp4", "video/webm")
TOO_MUCH = "a file that can be read in less time"
COMMAND = (sys.executable, "-m", "server.jobs.inputs.decode_worker")


class Decoder:
    def __init__(
        self, n_processes: int = PROCESSES, *, wall_s: float = WALL_S, command: Sequence[str] = COMMAND
    ) -> None:
        self._children = Children(lambda: [*command, imageio_ffmpeg.get_ffmpeg_exe()])
        self._wall_s = wall_s
        self._executor = ThreadPoolExecutor(n_processes, thread_name_prefix="inputs")

    async def decode(self, mime_type: str, source: Path, target: Path) -> Decoded:
        """Reads the file at `source` and writes it to `target` in the form in which it is kept.

        Raises `Refused`, OSError for a fault of the disk, and `Unavailable` when no process can be started, or this is
        closed.
        """
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._executor, self._decode, mime_type, source, target)
        except RuntimeError as error:  # of an executor that was shut down
            raise Unavailable("The server is stopping.", retry_after_s=5) from error

    def close(self) -> None:
        """Ends the processes at once. Idempotent."""
        self._children.close()
        self._executor.shutdown(cancel_futures=True)

    def _decode(self, mime_type: str, source: Path, target: Path) -> Decoded:
        task = {"mime_type": mime_type, "source": str(source), "target": str(target)}
        try:
            found = self._children.ask(task, self._wall_s, _read)
        except Closed as error:
            raise Unavailable("The server is stopping.", retry_after_s=5) from error
        except Ended as ended:
            logger.warning("a file ended the process that decodes", extra={"reason": str(ended), "type": mime_type})
            raise Refused(TOO_MUCH) from ended
        except (OSError, RuntimeError) as error:  # RuntimeError: there is no ffmpeg
            logger.exception("the process that decodes was not started")
            raise Unavailable("Files cannot be decoded at the moment.", retry_after_s=5) from error
        if isinstance(found, Decoded):
            return found
        raise found


def _read(answer: Any) -> Decoded | Refused | OSError:
    """Reads what `decode_worker.py` answers. Raises LookupError, TypeError or ValueError for anything else."""
    match answer:
        case {"must_be": str(must_be)}:
            return Refused(must_be)
        case {"failed": str(reason)}:
            return OSError(reason)
        case {"decoded": {"warnings": list(warnings)} as decoded}:
            made = Decoded(**decoded | {"warnings": tuple(map(str, warnings))})
            sizes = (made.width, made.height, made.num_frames)
            has_rate = isinstance(made.fps, float | int | None)
            if made.mime_type in KEPT_TYPES and has_rate and all(type(size) is int and size > 0 for size in sizes):
                return made
    raise ValueError("another form")
