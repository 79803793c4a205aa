"""What tells one state of a checkpoint's files from another without reading them: names, sizes, times. No torch."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path


def fingerprint(path: Path) -> str:
    """Of a file, or of a folder and the folders right below it. Raises OSError when something goes away meanwhile."""
    lines = [f"{name} {size} {mtime}" for name, size, mtime in sorted(_files(path))]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:32]


def _files(path: Path, prefix: str = "", depth: int = 2) -> list[tuple[str, int, int]]:
    if path.is_file():
        return [_entry(path, path.name)]
    found: list[tuple[str, int, int]] = []
    with os.scandir(path) as entries:
        for entry in entries:
            name = f"{prefix}{entry.name}"
            if entry.is_dir() and depth and not entry.name.startswith("."):
                found += _files(Path(entry.path), f"{name}/", depth - 1)
            elif entry.is_file():
                found.append(_entry(Path(entry.path), name))
    return found


def _entry(path: Path, name: str) -> tuple[str, int, int]:
    stat = path.stat()  # of the file behind a link: the hub's cache is made of links
    return name, stat.st_size, stat.st_mtime_ns
