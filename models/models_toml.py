"""models.toml as something to be edited: what a person wrote there, comments and order, stays. Written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomlkit
from tomlkit.exceptions import TOMLKitError
from tomlkit.items import Table

from models.errors import BadConfig


class TomlFile:
    def __init__(self, path: Path) -> None:
        self.path = path

    def text(self) -> str:
        return self.path.read_text(encoding="utf-8") if self.path.is_file() else ""

    def entry(self, name: str) -> dict[str, Any]:
        """The [models.NAME] table as plain data; empty when there is none."""
        found: Any = self._parse().get("models", {}).get(name, {})
        return dict(found.unwrap()) if hasattr(found, "unwrap") else dict(found)

    def names(self) -> list[str]:
        return list(self._parse().get("models", {}))

    def has(self, name: str) -> bool:
        return name in self._parse().get("models", {})

    def merge(self, name: str, said: Mapping[str, Any]) -> None:
        """Lay `said` over the entry; None takes a key away, a table is laid over a table."""
        document = self._parse()
        models = document.setdefault("models", tomlkit.table(is_super_table=True))
        _merge(models.setdefault(name, tomlkit.table()), said)
        self.write(tomlkit.dumps(document))

    def drop(self, name: str) -> None:
        document = self._parse()
        document.get("models", {}).pop(name, None)
        self.write(tomlkit.dumps(document))

    def write(self, text: str) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        beside = self.path.with_name(f".{self.path.name}.new")
        with beside.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(self.path)

    def _parse(self) -> tomlkit.TOMLDocument:
        try:
            return tomlkit.parse(self.text())
        except (TOMLKitError, UnicodeDecodeError) as error:
            raise BadConfig(f"{self.path}: {error}") from error


def _merge(table: Table, said: Mapping[str, Any]) -> None:
    for key, value in said.items():
        if value is None:
            table.pop(key, None)
        elif isinstance(value, Mapping):
            _merge(table.setdefault(key, tomlkit.table()), value)
        else:
            table[key] = value
