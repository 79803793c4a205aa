"""The arguments of calls for dialects that have them as a JSON object, not as its text. Pure functions."""

from __future__ import annotations

import json
from typing import Any, NoReturn


def arguments_object(text: str) -> dict[str, Any] | None:
    """Returns the object, or None for a text that is none, as of a reply that was cut off, or that JSON cannot hold."""
    try:
        value = json.loads(text or "{}", parse_constant=_reject)
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError):  # also half a surrogate pair, and a number beyond all floats
        return None
    return value if isinstance(value, dict) else None


def _reject(_: str) -> NoReturn:
    raise ValueError
