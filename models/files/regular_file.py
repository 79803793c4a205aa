"""Opens and reads the files of a checkpoint, which may be anything that a folder can hold. Any thread; no torch.

A FIFO would keep its reader waiting for ever, a device never ends, and a file may grow while it is read. So only
regular files are opened, and no more is read than is allowed.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO

from models.errors import BadModel


def open_file(path: Path) -> BinaryIO:
    """Raises `BadModel` for anything but a regular file or a link to one, OSError for one that cannot be opened."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # O_NONBLOCK: a FIFO has no writer
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise BadModel(f"{path.name} is not a regular file", detail=str(path))
    return os.fdopen(descriptor, "rb")


def read_whole(path: Path, max_bytes: int, what: str) -> bytes:
    """Returns the content of a small file. Raises as `open_file`, and `BadModel` for one that is larger.

    what: the file should be, for the error: "a config".
    """
    with open_file(path) as file:
        if os.fstat(file.fileno()).st_size > max_bytes or len(content := file.read(max_bytes + 1)) > max_bytes:
            raise BadModel(f"{path.name} is too large to be {what}", detail=str(path))
    return content
