"""Remembers on disk what was read of which files, so that the next start does not read them again. Any thread.

What was read holds for the same files, read by the same code with the same packages installed.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import models
from models.files.whole_file import write_whole

logger = logging.getLogger(__name__)


class Remembered:
    def __init__(self, file: Path, auto_dtype: str) -> None:
        self._file = file
        self._version = _version(auto_dtype)

    def load(self) -> dict[str, dict[str, Any]]:
        """Returns path → {"stamps", "outcome"} as it was saved, nothing when that does not hold any more."""
        try:
            saved = json.loads(self._file.read_bytes())
            if saved["version"] == self._version and isinstance(saved["read"], dict):
                return dict(saved["read"])
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            pass  # there is none, or another version wrote it: everything is read once more
        return {}

    def save(self, read: dict[str, dict[str, Any]]) -> None:
        # Piece by piece: the encoder keeps the interpreter's lock until it is done, and all other threads wait.
        entries = ",".join(f"{json.dumps(path)}:{json.dumps(each)}" for path, each in read.items())
        try:
            write_whole(self._file, f'{{"version":{json.dumps(self._version)},"read":{{{entries}}}}}')
        except OSError as error:
            logger.warning("what was read of the models is not remembered", extra={"reason": str(error.strerror)})


def _version(auto_dtype: str) -> str:
    """Changes with our code and with every package that is installed or removed."""
    lines = [auto_dtype, *(f"{path} {path.stat().st_mtime_ns}" for path in _code())]
    return hashlib.sha256("\n".join(lines).encode(errors="surrogateescape")).hexdigest()


def _code() -> Iterator[Path]:
    yield from (Path(path) for name in ("purelib", "platlib") if os.path.isdir(path := sysconfig.get_paths()[name]))
    yield from sorted(Path(models.__file__).parent.rglob("*.py"))
