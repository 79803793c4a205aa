"""Edits models.toml and keeps the comments and order that a person wrote; the file is replaced whole or not at all.

Any thread. The caller sees to it that only one edit runs at a time.
"""

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
    """Methods that parse the file raise `BadConfig` when it is not valid TOML."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def text(self) -> str:
        return self.path.read_text(encoding="utf-8") if self.path.is_file() else ""

    def entry(self, name: str) -> dict[str, Any]:
        """Returns the [models.NAME] table as plain data, empty when there is none."""
        found: Any = self._parse().get("models", {}).get(name, {})
        return dict(found.unwrap()) if hasattr(found, "unwrap") else dict(found)

    def names(self) -> list[str]:
        return list(self._parse().get("models", {}))

    def has(self, name: str) -> bool:
        return name in self._parse().get("models", {})

    def merge(self, name: str, changes: Mapping[str, Any]) -> None:
        """Writes `changes` over the entry. None removes a key, and a table is merged into the table of that key.

        Raises `BadConfig` for a value that TOML cannot hold: null in a list, half of a surrogate pair.
        """
        document = self._parse()
        models = document.setdefault("models", tomlkit.table(is_super_table=True))
        try:
            _merge(models.setdefault(name, tomlkit.table()), changes)
            text = tomlkit.dumps(document)
            text.encode()
        except (TOMLKitError, ValueError) as error:  # UnicodeEncodeError is a ValueError
            raise BadConfig(f"{name} has a value that a TOML file cannot hold") from error
        self.write(text)

    def drop(self, name: str) -> None:
        document = self._parse()
        document.get("models", {}).pop(name, None)
        self.write(tomlkit.dumps(document))

    def write(self, text: str) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        new_file = self.path.with_name(f".{self.path.name}.new")
        with new_file.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        new_file.replace(self.path)

    def _parse(self) -> tomlkit.TOMLDocument:
        try:
            return tomlkit.parse(self.text())
        except (TOMLKitError, UnicodeDecodeError) as error:
            raise BadConfig(f"{self.path}: {error}") from error


def _merge(table: Table, changes: Mapping[str, Any]) -> None:
    for key, value in changes.items():
        if value is None:
            table.pop(key, None)
        elif isinstance(value, Mapping):
            _merge(table.setdefault(key, tomlkit.table()), value)
        else:
            table[key] = value
