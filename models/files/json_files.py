"""Reads the JSON files of a checkpoint as the libraries do, with bounds on their size and nesting. Any thread.

diffusers and transformers read a config with Python's own json as UTF-8: NaN is a number, of a key that stands twice
the last value counts, a byte order mark is an error. What they refuse is refused here by name.
"""

from __future__ import annotations

import json
from pathlib import Path

from models.errors import BadModel
from models.files.regular_file import read_whole

MAX_CONFIG_BYTES = 4 << 20  # the largest config seen has 40 KiB; chat templates inside reach 100 KiB
MAX_INDEX_BYTES = 32 << 20  # of an index of shards, which names each tensor; 60,000 tensors take 6 MiB
MAX_DEPTH = 100  # objects and lists inside each other; configs have ten
MAX_DIGITS = 40  # of an integer; tokenizer_config.json says 10**30 where there is no limit


def read_config(path: Path) -> dict[str, object]:
    """Returns the object in a JSON config.

    Raises `BadModel` for any other JSON value and for a file that is too large.
    """
    parsed = read_json(path)
    if not isinstance(parsed, dict):
        raise BadModel(f"{path.name} is not a JSON object", detail=str(path))
    return parsed


def read_json(path: Path, max_bytes: int = MAX_CONFIG_BYTES, what: str = "a config") -> object:
    """Returns what a JSON file holds. Raises `BadModel` for one that is damaged or too large, OSError."""
    return parse_json(read_whole(path, max_bytes, what), path.name)


def parse_json(text: bytes, name: str, *, unique: bool = False) -> object:
    """Parses JSON and raises `BadModel` for every failure.

    unique: refuses a key that stands twice in one object, and an integer beyond 64 bits. For files that programs other
    than Python's json read too: two readers could take different ones of its values.
    """
    max_digits = len(str(1 << 63)) if unique else MAX_DIGITS

    def integer(digits: str) -> int:
        value = int(digits) if len(digits) <= max_digits + 1 else None
        if value is None or (unique and not -(1 << 63) <= value < 1 << 64):
            raise BadModel(f"{name}: an integer of more than {'64 bits' if unique else f'{MAX_DIGITS} digits'}")
        return value

    def distinct(pairs: list[tuple[str, object]]) -> dict[str, object]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise BadModel(f"{name}: the same key twice in one object")
        return found

    if text.startswith(b"\xef\xbb\xbf"):
        raise BadModel(f"{name} begins with a byte order mark, which the libraries refuse: save it as UTF-8 without")
    try:
        parsed: object = json.loads(
            text.decode("utf-8"), object_pairs_hook=distinct if unique else None, parse_int=integer
        )
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise BadModel(f"{name} is not valid JSON") from error
    _check_depth(parsed, name)
    return parsed


def _check_depth(parsed: object, name: str) -> None:
    level = [parsed]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for value in level
            if isinstance(value, dict | list)
            for inner in (value.values() if isinstance(value, dict) else value)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return
    raise BadModel(f"{name}: more than {MAX_DEPTH} objects and lists inside each other")
