"""Reads the JSON files of a checkpoint with bounds: size, duplicate keys and nesting. Any thread."""

from __future__ import annotations

import json
from pathlib import Path

from models.errors import BadModel

MAX_CONFIG_BYTES = 4 << 20  # the largest config seen has 40 KiB; chat templates inside reach 100 KiB


def read_config(path: Path) -> dict[str, object]:
    """Returns the object in a JSON config.

    Raises `BadModel` for any other JSON value and for a file that is too large.
    """
    if path.stat().st_size > MAX_CONFIG_BYTES:
        raise BadModel(f"{path.name} is too large to be a config", detail=str(path))
    parsed = parse_json(path.read_bytes(), path.name)
    if not isinstance(parsed, dict):
        raise BadModel(f"{path.name} is not a JSON object", detail=str(path))
    return parsed


def parse_json(text: bytes, name: str) -> object:
    """Parses JSON and raises `BadModel` for every failure.

    A duplicate key is refused, because two readers could take different ones of its values.
    """

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise BadModel(f"{name}: the same key twice in one object")
        return found

    try:
        parsed: object = json.loads(text, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise BadModel(f"{name} is not valid JSON") from error
    return parsed
