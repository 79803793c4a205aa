"""Parses and prints sizes and durations. Pure functions."""

from __future__ import annotations

import math
import re

_UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}
_SECONDS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def size(n_bytes: int) -> str:
    """Returns a number of bytes with a binary unit, as in "1.5 GiB"."""
    power = max(0, min(4, (n_bytes.bit_length() - 1) // 10))
    return f"{n_bytes / 1024**power:.{1 if power else 0}f} {('B', 'KiB', 'MiB', 'GiB', 'TiB')[power]}"


def parse_bytes(value: object) -> object:
    """Returns a size in bytes: "8GiB", "8G" and 8589934592 are the same; "8GB" is 8·10^9. Raises `ValueError`.

    A value that is not text is returned unchanged, for the validator that runs next.
    """
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(i?b)?\s*", value, re.IGNORECASE)
    if match is None:
        raise ValueError("a size is written like 8GiB, 512MiB or a number of bytes")
    number, unit, suffix = float(match[1]), match[2].lower(), (match[3] or "").lower()
    return round(number * (10.0 ** (3 * "kmgt".index(unit) + 3) if unit and suffix == "b" else _UNITS[unit]))


def parse_seconds(value: object) -> object:
    """Returns a duration in seconds: "5m", "300" and 300 are the same; a negative one is infinite. Raises `ValueError`.

    Any other value is returned unchanged, for the validator that runs next.
    """
    if isinstance(value, str):
        match = re.fullmatch(r"\s*(-?\d+(?:\.\d+)?)\s*(ms|s|m|h|d)?\s*", value)
        if match is None:
            raise ValueError("a time is written like 30s, 5m, 2h, a number of seconds, or -1 for ever")
        value = float(match[1]) * _SECONDS[match[2] or ""]
    return math.inf if isinstance(value, int | float) and value < 0 else value
