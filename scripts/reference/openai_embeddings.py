"""Embeddings: the fields that are done and taken, and what differs from OpenAI's."""

from __future__ import annotations

from collections.abc import Iterator

from scripts.reference.writing import fields, item, names


def section() -> Iterator[str]:
    from server.api.openai import embedding_schema

    yield from ["## Embeddings", "", "Fields that are done:", ""]
    yield from fields(embedding_schema.Embedding)
    yield from ["", "Fields that are taken:", ""]
    yield from item(f"without an effect: {names(sorted(embedding_schema.IGNORED))}")
    yield ""
