"""Writes docs/api.md from the server's own OpenAPI document: `python scripts/make_api_reference.py`. Starts no server.

A test makes it again and compares, so a route or a field cannot be missing from it.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PATH = ROOT / "docs" / "api.md"
Schema = Mapping[str, Any]

HEAD = """\
# API reference

Made by `scripts/make_api_reference.py` from the server's OpenAPI document, which a running server gives at `GET /api/openapi.json`.
Do not edit it: change the route, run the script.

**Key.** `Authorization: Bearer YOUR_API_KEY` on every route that does not say otherwise. **Bodies** are JSON in UTF-8, at most 64 KiB,
`Content-Type: application/json`; a field nobody knows is a 400 that names the nearest known one. **Replies** may grow: ignore what you do not know.
**Errors** are `{"error": "Descriptive message", "code": 400}` with the same number as the status; under `/v1` they have OpenAI's shape.

| code | means |
|---|---|
| 400 | a field is wrong, and the message names it; or the job can never fit this device |
| 401 | the key is missing, malformed, unknown or revoked |
| 403 | the key lacks the scope, or a browser came from an origin that is not allowed |
| 404 | no such path, job, file or model; those of others look the same |
| 405, 413 | the path has no such method; the body is too large |
| 409 | the `Idempotency-Key` came with another body, or something stands in the way |
| 429 | the plan's day is used up, too many at once, or the queue is full: see `Retry-After` |
| 500 | a fault of the server: the log has the `X-Request-Id` of the reply |
| 502 | starting, draining, or the model does not load: see `Retry-After` |

Types below: `text?` may be null. A name in italics is a type described at the end.
"""


def document() -> Mapping[str, Any]:
    from server.api.app import create_app

    # The document is made from the routes alone: nothing behind them is asked.
    needed = [name for name, part in inspect.signature(create_app).parameters.items() if part.default is part.empty]
    app = create_app(**dict.fromkeys(needed))  # type: ignore[arg-type]  # see above
    return app.openapi()


def reference(document: Mapping[str, Any]) -> str:
    types = Types(document["components"]["schemas"])
    lines = [HEAD]
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            lines += [f"## {method.upper()} {path}", "", *_route(operation, types)]
    lines += ["# Types", "", *types.described()]
    return "\n".join(lines).rstrip() + "\n"


class Types:
    """Those met so far, in the order they were met; describing one may meet more."""

    def __init__(self, schemas: Mapping[str, Schema]) -> None:
        self._schemas = dict(schemas)
        self._met: dict[str, None] = {}

    def meet(self, reference: str) -> str:
        name = reference.rpartition("/")[2]
        self._met[name] = None
        shown = self.shown(name)
        return f"[*{shown}*](#{shown.lower()})"

    def meet_nested(self, schema: Schema) -> str:
        """Of a type that stands where it is used, and is described as those with a name of their own."""
        self._schemas.setdefault(schema["title"], schema)
        return self.meet(schema["title"])

    def shown(self, name: str) -> str:
        """Two modules may have a type of one name: then the module's comes before it."""
        short = name.rpartition("__")[2]
        alike = [other for other in self._schemas if other.rpartition("__")[2] == short]
        return short if len(alike) == 1 else "-".join(name.split("__")[-2:])

    def described(self) -> Iterator[str]:
        done: set[str] = set()
        while left := [name for name in self._met if name not in done]:
            for name in left:
                done.add(name)
                schema = self._schemas[name]
                yield from [f"## {self.shown(name)}", ""]
                if "properties" in schema:
                    yield from _table(["field", "type"], [row[:2] for row in _fields(schema, self)])
                else:
                    yield from [f"{_type(schema, self)}", ""]


def _route(operation: Schema, types: Types) -> Iterator[str]:
    if said := operation.get("description"):
        yield from [" ".join(said.split("\n\n")[0].split()), ""]
    if not operation.get("security"):
        yield from ["Needs no key.", ""]
    if parameters := operation.get("parameters"):
        rows = [
            [
                f"`{p['name']}`",
                p["in"],
                _type(p["schema"], types),
                p.get("description") or ("required" if p.get("required") else "optional"),
            ]
            for p in parameters
        ]
        yield from _table(["parameter", "in", "type", ""], rows)
    for media_type, content in operation.get("requestBody", {}).get("content", {}).items():
        yield from _body(media_type, content["schema"], types)
    errors, shapes = [], dict[str, None]()
    for status, response in sorted(operation["responses"].items()):
        if status >= "400":
            errors.append(status)
            shapes[_content(response, types)] = None
            continue
        yield from [f"**{status}** {_content(response, types)}", ""]
    if errors:
        yield from [f"Errors: {', '.join(errors)}, as {' or '.join(shapes)}", ""]


def _body(media_type: str, schema: Schema, types: Types) -> Iterator[str]:
    """Several kinds of one body are told apart by a constant: it says whose the field is."""
    kinds = schema.get("oneOf", [schema])
    rows: dict[str, list[str]] = {}
    owners: dict[str, list[str]] = {}
    for kind in kinds:
        for name, cell, needed, must_be in _fields(kind, types, body=True):
            if name == "`type`" and name in rows:
                rows[name][1] += f" {cell}"
                continue
            alike = name not in rows or rows[name][1] == cell
            key = name if alike else f"{name} {_kind(kind)}"
            rows[key] = [name, cell, needed, must_be]
            owners.setdefault(key, []).append(_kind(kind))
    for key, owner in owners.items():
        if len(owner) < len(kinds) and key != "`type`":
            rows[key][2] = f"{owner[0]} only"
    yield from [f"Body, `{media_type}`:", ""]
    yield from _table(["field", "type", "", "must be"], list(rows.values()))


def _kind(schema: Schema) -> str:
    return str(schema.get("properties", {}).get("type", {}).get("const", schema.get("title", "")))


def _fields(schema: Schema, types: Types, *, body: bool = False) -> list[list[str]]:
    required = schema.get("required", ())
    found = []
    for name, field in schema.get("properties", {}).items():
        row = [f"`{name}`", _type(field, types, body=body)]
        if body:
            row.append("required" if name in required else "optional")
        row.append(_description(field))
        found.append(row)
    return found


def _description(field: Schema) -> str:
    inner = [part.get("description") for part in field.get("anyOf", ())]
    return str(field.get("description") or next(filter(None, inner), "")).replace("|", "\\|")


def _type(schema: Schema, types: Types, *, body: bool = False) -> str:
    if "$ref" in schema:
        return types.meet(schema["$ref"])
    if "const" in schema:
        return f'`"{schema["const"]}"`'
    if "enum" in schema:
        return " ".join(f'`"{value}"`' for value in schema["enum"])
    for several in ("anyOf", "oneOf"):
        if several in schema:
            parts = [part for part in schema[several] if part.get("type") != "null"]
            # Of a body null is what is not said; of a reply it is a value.
            mark = "?" if len(parts) < len(schema[several]) and not body else ""
            return " or ".join(_type(part, types) + mark for part in parts)
    match schema.get("type"):
        case "array":
            return f"list of {_type(schema.get('items', {}), types)}"
        case "object" if "properties" in schema:
            return types.meet_nested(schema)
        case "object" if isinstance(schema.get("additionalProperties"), dict):
            return f"object of {_type(schema['additionalProperties'], types)}"
        case "string":
            return "text"
        case "null":
            return "null"
        case "boolean":
            return "true or false"
        case str(name):
            return name
        case _:
            return "any"


def _content(response: Schema, types: Types) -> str:
    content = response.get("content")
    if not content:
        return str(response.get("description", ""))
    shown = [
        _type(said["schema"], types) if media_type == "application/json" and "schema" in said else f"`{media_type}`"
        for media_type, said in content.items()
    ]
    return " or ".join(shown)


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    return [*lines, *(f"| {' | '.join(row)} |" for row in rows), ""]


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    PATH.write_text(reference(document()))
    print(f"{PATH.relative_to(ROOT)}: {len(PATH.read_text().splitlines())} lines")
