"""Fetch, verify and convert the weights that models/builtin/models.toml names and this machine lacks.

Run by `make serve` and `make test`; quick when all is there. They go to the cache shared by all checkouts:
$AGENTNAME_CACHE_DIR, or agentname below $XDG_CACHE_HOME (~/.cache).
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from models.catalogue import BUILTIN
from models.entries import read_entries
from models.errors import ModelsError
from models.sources import fetch, find
from server.settings import load_settings


def main() -> int:
    console = Console(stderr=True)
    cache_dir = load_settings().cache_dir
    for entry in read_entries(BUILTIN / "models.toml"):
        assert entry.source is not None, "a built-in model has a source"
        if find(entry.source, beside=BUILTIN, cache_dir=cache_dir) is not None:
            continue
        try:
            fetch_one(entry.name, entry.source, cache_dir=cache_dir, console=console)
        except ModelsError as error:
            console.print(f"{entry.name}: {error.message}", style="red")
            if error.detail:
                console.print(error.detail, style="dim", markup=False)
            return 1
    return 0


def fetch_one(name: str, source: str, *, cache_dir: Path, console: Console) -> None:
    began = time.monotonic()
    columns = (
        SpinnerColumn(),
        TextColumn("{task.fields[model]}: {task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("starting", total=None, model=name)
        fetch(
            source,
            beside=BUILTIN,
            cache_dir=cache_dir,
            report=lambda doing, done: progress.update(
                task, description=doing, total=None if done is None else 1.0, completed=done or 0.0
            ),
        )
    console.print(f"{name}: ready in {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    sys.exit(main())
