"""Opens a catalogue over a data directory of a test, without the built-in models. No torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from models.catalogue import Catalogue

NO_BUILTIN = Path("/nonexistent")


def open_catalogue(data_dir: Path, toml: str | None = None, **options: Any) -> Catalogue:
    """toml: the content of models.toml, which is written first. options: further arguments of `Catalogue.open`."""
    if toml is not None:
        (data_dir / "models.toml").write_text(toml)
    arguments: dict[str, Any] = {"data_dir": data_dir, "cache_dir": data_dir / "cache", "builtin": NO_BUILTIN}
    return Catalogue.open(**arguments | options)
