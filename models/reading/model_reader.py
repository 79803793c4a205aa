"""Reads many models, in this process or in children, for the catalogue."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from models.model_entry import ModelEntry
from models.reading.outcome import Outcome
from models.reading.read_model import ModelReading
from models.spec import ModelSpec


@dataclass(frozen=True, slots=True)
class Declared:
    """An entry of a models.toml."""

    entry: ModelEntry
    known: ModelSpec | None  # what was found under its name
    toml_dir: Path
    origin: str


class ModelReader(Protocol):
    """An outcome is None while the reading goes on: ask again later."""

    def found(self, paths: Sequence[Path], until: float) -> Sequence[Outcome | None]:
        """until: a time of `time.monotonic` at which to return with what has been read."""

    def declared(self, entries: Sequence[Declared], until: float) -> Sequence[Outcome | None]:
        """Raises `BadConfig`."""

    def done(self) -> None:
        """Everything of one catalogue was asked for."""


class DirectReader:
    """Reads in this process, each model at the moment it is asked for. For programs that read their own files."""

    def __init__(self, reading: ModelReading) -> None:
        self._reading = reading

    def found(self, paths: Sequence[Path], until: float) -> Sequence[Outcome | None]:
        return [self._reading.found(path) for path in paths]

    def declared(self, entries: Sequence[Declared], until: float) -> Sequence[Outcome | None]:
        return [self._reading.declared(each.entry, each.known, each.toml_dir, each.origin) for each in entries]

    def done(self) -> None:
        pass
