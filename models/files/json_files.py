"""Reads the JSON files of a checkpoint as the libraries do, with bounds on their size and nesting. Any thread.

diffusers and transformers read a config with Python's own json as UTF-8: NaN is a number, of a key that stands twice
the last value counts, a byte order mark is an error. What they refuse is refused here by name.
"""

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


def parse_json(text: bytes, name: str, *, unique: bool = False) -> object:
    """Parses JSON and raises `BadModel` for every failure.

    unique: refuses a key that stands twice in one object. For files that programs other than Python's json read too:
    two readers could take different ones of its values.
    """

    def distinct(pairs: list[tuple[str, object]]) -> dict[str, object]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise BadModel(f"{name}: the same key twice in one object")
        return found

    if text.startswith(b"\xef\xbb\xbf"):
        raise BadModel(f"{name} begins with a byte order mark, which the libraries refuse: save it as UTF-8 without")
    try:
        parsed: object = json.loads(text.decode("utf-8"), object_pairs_hook=distinct if unique else None)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise BadModel(f"{name} is not valid JSON") from error
    return parsed
