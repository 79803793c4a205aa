"""Remembers what was chosen by measurement, in a file that later starts read. Any thread; one at a time.

A file that cannot be read or written costs the measurements, never a load.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from models.files.whole_file import write_whole

logger = logging.getLogger(__name__)

FILE_NAME = "measured.json"


class Measured:
    def __init__(self, path: Path | None) -> None:
        """path: of the file; None: what is measured is known to this object alone."""
        self._path = path
        self._known: dict[str, dict[str, Any]] = {}

    def get(self, key: str) -> dict[str, Any] | None:
        """What was measured under this key, by this process or another one."""
        if key not in self._known:
            self._known |= self._read()
        return self._known.get(key)

    def put(self, key: str, **facts: Any) -> None:
        """Remember plain facts under a key, which names everything that they depend on."""
        if self._known.get(key) == facts:
            return
        self._known = {**self._read(), **self._known, key: facts}
        if self._path is None:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self._path, json.dumps(self._known, indent=1, sort_keys=True))
        except OSError:
            logger.warning("measurement not kept", extra={"file": str(self._path)}, exc_info=True)

    def _read(self) -> dict[str, dict[str, Any]]:
        if self._path is None or not self._path.exists():
            return {}
        try:
            found = json.loads(self._path.read_text())
        except (OSError, ValueError):
            logger.warning("measurements not read", extra={"file": str(self._path)}, exc_info=True)
            return {}
        return {k: v for k, v in found.items() if isinstance(v, dict)} if isinstance(found, dict) else {}
