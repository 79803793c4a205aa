"""Lines of Markdown for the generated parts: wrapped items, lists of names, the fields of a body, the routes."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

WIDTH = 120


def routes(beginning: str, others: Sequence[str] = ()) -> Iterator[str]:
    """Yields a heading, and the routes whose path begins with `beginning` and with none of `others`."""
    from scripts.make_api_reference import document

    yield from ["## Routes", ""]
    for path, operations in document()["paths"].items():
        for method, operation in operations.items():
            if path.startswith(beginning) and not path.startswith(tuple(others)):
                summary = operation["description"].split("\n\n")[0]
                yield from item(f"**`{method.upper()} {path}`** {' '.join(summary.split())}")
    yield ""


def fields(model: Any, leave_out: Collection[str] = ()) -> Iterator[str]:
    """Yields an item for each field of a pydantic model, with its description."""
    for name, field in model.model_json_schema()["properties"].items():
        if name in leave_out:
            continue
        inner = [part.get("description") for part in field.get("anyOf", ())]
        yield from item(f"`{name}`: {field.get('description') or next(filter(None, inner))}")


def values(values: Iterable[Any]) -> str:
    return " or ".join(f"`{json.dumps(value)}`" for value in values)


def names(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def item(text: str, bullet: str = "- ") -> list[str]:
    indent = " " * len(bullet)
    return textwrap.wrap(bullet + text, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def paragraph(text: str) -> list[str]:
    return [*textwrap.wrap(text, WIDTH), ""]
