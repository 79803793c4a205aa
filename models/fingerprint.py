"""Hashes the names, sizes and times of a checkpoint's files, to notice a change without reading them. Any thread."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from models.files.leftovers import is_leftover


def fingerprint(path: Path) -> str:
    """Covers a file, or a folder and two levels of folders below it, without left-overs of other programs.

    Raises OSError when `path` itself cannot be read; below it, what cannot be read counts by its name.
    """
    lines = [f"{name} {size} {mtime}" for name, size, mtime in sorted(_files(path))]
    return hashlib.sha256("\n".join(lines).encode(errors="surrogateescape")).hexdigest()[:32]


def _files(path: Path, prefix: str = "", depth: int = 2) -> list[tuple[str, int, int]]:
    if not path.is_dir():
        return [_name_size_time(path, path.name)]
    found: list[tuple[str, int, int]] = []
    with os.scandir(path) as entries:
        for entry in entries:
            name = f"{prefix}{entry.name}"
            if is_leftover(entry.name):
                continue
            try:
                if not entry.is_dir():
                    found.append(_name_size_time(Path(entry.path), name))
                elif depth:
                    found += _files(Path(entry.path), f"{name}/", depth - 1)
            except OSError:  # a link to nothing, a folder without permission, a file that was just removed
                found.append((name, -1, 0))
    return found


def _name_size_time(path: Path, name: str) -> tuple[str, int, int]:
    stat = path.stat()  # follows links: the hub's cache consists of links
    return name, stat.st_size, stat.st_mtime_ns
