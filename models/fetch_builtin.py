"""Downloads, verifies and converts the weights of the built-in models: python -m models.fetch_builtin CACHE_DIR

Runs before a server starts (make serve, the container, the systemd unit). It is quick when nothing is missing.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from models.catalogue import BUILTIN
from models.errors import ModelsError
from models.model_entry import read_entries
from models.sources import fetch, find


def fetch_builtin(cache_dir: Path) -> int:
    """Returns an exit code: 1 when a source could not be fetched, with the reason on stderr."""
    console = Console(stderr=True)
    for entry in read_entries(BUILTIN / "models.toml"):
        assert entry.source is not None, "a built-in model has a source"
        if find(entry.source, relative_to=BUILTIN, cache_dir=cache_dir) is not None:
            continue
        try:
            _fetch_with_progress(entry.name, entry.source, cache_dir, console)
        except ModelsError as error:
            console.print(f"{entry.name}: {error.message}", style="red")
            if error.detail:
                console.print(error.detail, style="dim", markup=False)
            return 1
    return 0


def _fetch_with_progress(name: str, source: str, cache_dir: Path, console: Console) -> None:
    console.print(f"{name}: fetching {source} into {cache_dir} (once)")
    began = time.monotonic()
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("starting", total=None)
        fetch(
            source,
            relative_to=BUILTIN,
            cache_dir=cache_dir,
            report=lambda doing, done, total: progress.update(
                task, description=doing, total=total or None, completed=done
            ),
        )
    console.print(f"{name}: ready in {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    sys.exit(fetch_builtin(Path(sys.argv[1])))
