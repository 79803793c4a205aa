"""Bring one source here, in a process of its own: python -m models.sources.pull SOURCE BESIDE CACHE_DIR [--private]

Says on stdout how far it is, one JSON object a line; the last one is {"path": …} or {"error": …}. Killed at any moment, a later
run goes on with what arrived. A process, because the hub's library and a foreign format's parser get their own memory that way.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from models.errors import ModelsError
from models.sources import fetch

SAY_EVERY_S = 0.25


def main(source: str, beside: str, cache_dir: str, *options: str) -> int:
    said_at, said = 0.0, ""

    def report(doing: str, done: int, total: int) -> None:
        nonlocal said_at, said
        now = time.monotonic()
        if doing != said or now - said_at >= SAY_EVERY_S:
            said_at, said = now, doing
            _say({"doing": doing, "done": done, "total": total})

    try:
        path = fetch(
            source, beside=Path(beside), cache_dir=Path(cache_dir), report=report, private="--private" in options
        )
    except ModelsError as error:
        _say({"error": error.message, "detail": error.detail[-2000:]})
        return 1
    _say({"path": str(path)})
    return 0


def _say(line: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
