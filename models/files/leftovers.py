"""Tells the files of a checkpoint from what file managers, version control and downloads leave beside them.

Any thread. macOS writes ._NAME beside each file on a foreign disk, Windows thumbs.db; no library reads them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

# In lower case. Every name that begins with a dot is a left-over too: ._NAME, .DS_Store, .git, .cache.
LEFTOVERS = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "__pycache__", "@eadir", "lost+found"})
# Beside a file of that name: an unfinished download. aria2 and browsers reserve the file itself at the beginning.
UNFINISHED = (".aria2", ".part", ".partial", ".crdownload", ".download", ".incomplete", ".filepart", ".!qb")


def is_leftover(name: str) -> bool:
    return name.startswith(".") or name.lower() in LEFTOVERS


def files_in(folder: Path, pattern: str) -> list[Path]:
    """Returns the files and folders that match a glob pattern, sorted by name, without left-overs."""
    return sorted(path for path in folder.glob(pattern) if not is_leftover(path.name))


def is_unfinished(file: Path) -> bool:
    """Returns whether a program is still writing the file, or was interrupted, by the mark that it left beside it."""
    return any(file.with_name(file.name + suffix).exists() for suffix in UNFINISHED)


def unfinished_files(folder: Path) -> Iterator[str]:
    """Yields the names of the files in a folder that are still being written."""
    for path in files_in(folder, "*"):
        if path.name.endswith(UNFINISHED):
            yield path.name
