"""Fetches one source in its own process: python -m models.sources.pull SOURCE RELATIVE_TO CACHE_DIR [OPTION …]

It writes its progress to stdout, one JSON object per line: {"doing": …, "done": …, "total": …}, once {"need": …,
"free": …}, at last {"path": …, "source": …, "revision": …, "component": …, "note": …} or {"error": …}. It may be
killed at any moment: the next run continues with what arrived. It is a process because the hub's library and the parser
of a foreign format then have their own memory.

--private: addresses of this network may be fetched from. --needs-chat-template: a language model without a chat
template is refused before its weights are downloaded.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from models.checkpoint.chat_checkpoint import NO_TEMPLATE
from models.checkpoint.read_checkpoint import check_configs, type_of
from models.errors import BadModel, ModelsError
from models.files.chat_templates import chat_templates
from models.sources import fetch

WRITE_EVERY_S = 0.25


def main(source: str, relative_to: str, cache_dir: str, *options: str) -> int:
    written_at, last_doing = 0.0, ""

    def report(doing: str, done: int, total: int) -> None:
        nonlocal written_at, last_doing
        now = time.monotonic()
        if doing != last_doing or now - written_at >= WRITE_EVERY_S:
            written_at, last_doing = now, doing
            _write_line({"doing": doing, "done": done, "total": total})

    try:
        fetched = fetch(
            source,
            relative_to=Path(relative_to),
            cache_dir=Path(cache_dir),
            report=report,
            announce=lambda need, free: _write_line({"need": need, "free": free}),
            check=_check_with_template if "--needs-chat-template" in options else check_configs,
            private="--private" in options,
        )
    except ModelsError as error:
        _write_line({"error": error.message, "detail": error.detail[-2000:]})
        return 1
    except OSError as error:
        _write_line({"error": f"it could not be written: {error.strerror}", "detail": str(error)[-2000:]})
        return 1
    _write_line({**asdict(fetched), "path": str(fetched.path)})
    return 0


def _check_with_template(folder: Path) -> None:
    check_configs(folder)
    if type_of(folder) == "chat" and not chat_templates(folder):
        raise BadModel(NO_TEMPLATE)


def _write_line(line: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
