"""Writes large JSON replies. Worker threads."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from starlette.responses import Response

LEVELS = 5  # of lists and objects in each other, down to the log probabilities of one token


def large_json(body: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> Response:
    """A `JSONResponse`, written piece by piece: `json` would keep the event loop from running until it is done."""
    content = b"".join(piece.encode() for piece in _pieces(body, LEVELS))
    return Response(content, headers=headers, media_type="application/json")


def _pieces(value: Any, levels: int) -> Iterator[str]:
    match value:
        case dict() if levels:
            separator = "{"
            for name, each in value.items():
                yield f"{separator}{_json(name)}:"
                yield from _pieces(each, levels - 1)
                separator = ","
            yield "}" if value else "{}"
        case [dict() | list() | None, *_] if levels:  # a list of numbers or texts is written at once
            separator = "["
            for each in value:
                yield separator
                yield from _pieces(each, levels - 1)
                separator = ","
            yield "]"
        case _:
            yield _json(value)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
