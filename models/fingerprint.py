"""Hashes the names, sizes and times of a checkpoint's files, to notice a change without reading them. Any thread."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path


def fingerprint(path: Path) -> str:
    """Covers a file, or a folder and two levels of folders below it. Raises OSError when a file vanishes meanwhile."""
    lines = [f"{name} {size} {mtime}" for name, size, mtime in sorted(_files(path))]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:32]


def _files(path: Path, prefix: str = "", depth: int = 2) -> list[tuple[str, int, int]]:
    if path.is_file():
        return [_name_size_time(path, path.name)]
    found: list[tuple[str, int, int]] = []
    with os.scandir(path) as entries:
        for entry in entries:
            name = f"{prefix}{entry.name}"
            if entry.is_dir() and depth and not entry.name.startswith("."):
                found += _files(Path(entry.path), f"{name}/", depth - 1)
            elif entry.is_file():
                found.append(_name_size_time(Path(entry.path), name))
    return found


def _name_size_time(path: Path, name: str) -> tuple[str, int, int]:
    stat = path.stat()  # follows links: the hub's cache consists of links
    return name, stat.st_size, stat.st_mtime_ns
