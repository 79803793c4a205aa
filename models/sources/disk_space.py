"""Compares the size of a download with the free space of the disk that gets it. Any thread."""

from __future__ import annotations

import shutil
from pathlib import Path

from models.errors import FetchFailed
from models.sources.progress import SizeCallback


def require_space(what: str, need_bytes: int, folder: Path, where: str, announce: SizeCallback) -> None:
    """Tells `announce` both sizes. Raises `FetchFailed` when `need_bytes` are not free on the disk of `folder`.

    folder: need not exist yet. where: names the folder in the message, without its path.
    """
    existing = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
    free_bytes = shutil.disk_usage(existing).free
    announce(need_bytes, free_bytes)
    if need_bytes > free_bytes:
        raise FetchFailed(f"{what} needs {size(need_bytes)}, {size(free_bytes)} are free on the disk of {where}")


def size(n_bytes: int) -> str:
    """Returns a number of bytes with a binary unit, as in "1.5 GiB"."""
    power = max(0, min(4, (n_bytes.bit_length() - 1) // 10))
    return f"{n_bytes / 1024**power:.{1 if power else 0}f} {('B', 'KiB', 'MiB', 'GiB', 'TiB')[power]}"
