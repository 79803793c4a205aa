"""The folder of input files: each is written completely or not at all, and named by the store, never by a request.

Blocks: worker threads.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path

from server.jobs.inputs.media_types import HEAD_BYTES


class InputFolder:
    def __init__(self, path: Path) -> None:
        """Creates the folder if needed, closes it to other users, and removes what an earlier process left over."""
        self._kept = path
        self._unfinished = path / "unfinished"
        for folder in (self._kept, self._unfinished):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder.chmod(0o700)
        for left_over in self._unfinished.iterdir():
            left_over.unlink()

    def path(self, file_name: str) -> Path:
        return self._kept / file_name

    def unfinished(self, name: str) -> Path:
        return self._unfinished / name

    def finish(self, made: Path, file_name: str) -> int:
        """Moves a file that is unfinished to its place, where it survives a power cut. Returns its bytes."""
        made.chmod(0o600)
        with open(made, "rb+") as file:
            os.fsync(file.fileno())
            n_bytes = os.fstat(file.fileno()).st_size
        made.rename(self.path(file_name))
        descriptor = os.open(self._kept, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        return n_bytes

    def remove(self, file_names: Iterable[str]) -> None:
        unlink(*(self.path(name) for name in file_names))

    def unknown(self, known: Collection[str]) -> list[str]:
        """Returns the names of files that are not among the known ones."""
        return [path.name for path in self._kept.iterdir() if path.is_file() and path.name not in known]


def write(path: Path, data: bytes) -> None:
    with open(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
        file.write(data)


def read_head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(HEAD_BYTES)


def unlink(*paths: Path) -> None:
    for path in paths:
        with suppress(OSError):
            path.unlink(missing_ok=True)
