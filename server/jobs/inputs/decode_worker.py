"""The process that decodes files of clients: one after another, with bounded memory and time. No torch.

A program for a damaged or hostile file may crash, loop or take all memory. Here it takes this process with it and no
more: the server (`decoder.py`) answers that the file is refused, and starts another one. The server writes one line of
JSON for each file to the standard input and reads one from the standard output; when the input closes, this ends.

Run as: python -m server.jobs.inputs.decode_worker FFMPEG
"""

from __future__ import annotations

import json
import resource
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from server.jobs.inputs import clips
from server.jobs.inputs.decoded import Decoded, Refused
from server.jobs.inputs.pictures import write_png

MAX_BYTES = 1 << 30  # of memory: four copies of the largest picture, and this process itself
MAX_WRITTEN_BYTES = 512 << 20  # the largest picture as PNG takes 144 MB at most
CPU_S = 15.0  # of this process for one picture; the largest take 3 s
NICENESS = 5  # the server's own threads go first
TOO_MUCH_MEMORY = "a file that can be read with less memory"


def main() -> None:
    ffmpeg = sys.argv[1]
    resource.setrlimit(resource.RLIMIT_AS, (MAX_BYTES, clips.MAX_BYTES))
    resource.setrlimit(resource.RLIMIT_FSIZE, (MAX_WRITTEN_BYTES, MAX_WRITTEN_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl+C in the terminal is for the server
    for line in sys.stdin:
        signal.setitimer(signal.ITIMER_PROF, CPU_S)  # its signal ends this process, also inside a library
        reply = _answer(ffmpeg, **json.loads(line))
        signal.setitimer(signal.ITIMER_PROF, 0)
        sys.stdout.write(f"{json.dumps(reply)}\n")
        sys.stdout.flush()


def _answer(ffmpeg: str, mime_type: str, source: str, target: str) -> dict[str, Any]:
    try:
        return {"decoded": asdict(_decode(ffmpeg, mime_type, Path(source), Path(target)))}
    except Refused as refused:
        return {"must_be": str(refused)}
    except MemoryError:
        return {"must_be": TOO_MUCH_MEMORY}
    except OSError as error:
        return {"failed": f"{type(error).__name__}: {error.strerror}"}


def _decode(ffmpeg: str, mime_type: str, source: Path, target: Path) -> Decoded:
    if mime_type.startswith("video/"):
        return clips.write_clip(ffmpeg, mime_type, source, target)
    return write_png(source, target)


if __name__ == "__main__":
    main()
