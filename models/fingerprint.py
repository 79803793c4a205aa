"""Hashes the names, sizes and times of a checkpoint's files, to notice a change without reading them. Any thread."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from models.errors import BadModel
from models.files.leftovers import is_leftover

MAX_ENTRIES = 20_000  # files and folders of one checkpoint; the largest have a few hundred
DEPTH = 2  # levels of folders below the checkpoint's own


def fingerprint(path: Path) -> str:
    """Covers a file, or a folder and two levels of folders below it, without left-overs of other programs.

    Raises OSError when `path` itself cannot be read, `BadModel` for a folder with far too many files; below it, what
    cannot be read counts by its name.
    """
    lines = [f"{name} {size} {mtime}" for name, size, mtime, _ in sorted(_bounded(path))]
    return _digest(lines)[:32]


def stamp(path: Path) -> str:
    """As `fingerprint`, and tells a file from another one of the same size and time that took its place.

    All folders with far too many files are the same.
    """
    try:
        found = sorted(_bounded(path))
    except BadModel as error:
        return error.message
    return _digest([f"{name} {size} {mtime} {inode}" for name, size, mtime, inode in found])


def state_of(path: Path, max_entries: int) -> str:
    """As `fingerprint`, of a folder of any size: of one with more than `max_entries`, some are left out."""
    found: list[tuple[str, int, int, int]] = []
    for entry in _files(path, "", DEPTH):
        found.append(entry)
        if len(found) >= max_entries:
            break
    return _digest([f"{name} {size} {mtime}" for name, size, mtime, _ in sorted(found)])


def _digest(lines: list[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode(errors="surrogateescape")).hexdigest()


def _bounded(path: Path) -> list[tuple[str, int, int, int]]:
    found: list[tuple[str, int, int, int]] = []
    for entry in _files(path, "", DEPTH):
        found.append(entry)
        if len(found) > MAX_ENTRIES:
            raise BadModel(f"holds more than {MAX_ENTRIES} files", detail=str(path))
    return found


def _files(path: Path, prefix: str, depth: int) -> Iterator[tuple[str, int, int, int]]:
    """Yields name, size, time and inode. Raises OSError when `path` cannot be read."""
    if not path.is_dir():
        yield _entry(path, path.name)
        return
    with os.scandir(path) as entries:
        for entry in entries:
            name = f"{prefix}{entry.name}"
            if is_leftover(entry.name):
                continue
            try:
                if not entry.is_dir():
                    yield _entry(Path(entry.path), name)
                elif depth:
                    yield from _files(Path(entry.path), f"{name}/", depth - 1)
            except OSError:  # a link to nothing, a folder without permission, a file that was just removed
                yield name, -1, 0, 0


def _entry(path: Path, name: str) -> tuple[str, int, int, int]:
    found = path.stat()  # follows links: the hub's cache consists of links
    return name, found.st_size, found.st_mtime_ns, found.st_ino
