"""Reads the blocks of Anthropic's messages that become text and pictures. Pure functions.

Unknown and null fields of a block are taken; a block that cannot be read is a 400 that names its place, such as
messages[2].content[0].source, and what is expected there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

from server.api.shared.client_json import SHOWN_TYPE, readable, refuse
from server.api.shared.message_images import ContentParts, RequestImages
from server.errors import BadRequest

READ_AS_CONTENT = ("text", "image", "document", "search_result")
NO_CITATIONS = "citations are not made here. Leave it out."


class ContentReader:
    """Reads the content blocks of one request, which share one count of pictures."""

    def __init__(self) -> None:
        self._images = RequestImages()

    def add(self, parts: ContentParts, block: Mapping[str, Any], where: str) -> bool:
        """Adds a block to a message. Returns False for a block of a type that is not content."""
        match block.get("type"):
            case "text":
                parts.add_text(text_at(block, "text", where))
            case "image":
                parts.add_image(self._images.anthropic_part(block, where))
            case "document":
                self._add_document(parts, block, where)
            case "search_result":
                _refuse_citations(block, where)
                for field in ("title", "source"):
                    parts.add_text(text_at(block, field, where))
                self._add_all(parts, block.get("content"), f"{where}.content", ("text",))
            case _:
                return False
        return True

    def _add_document(self, parts: ContentParts, block: Mapping[str, Any], where: str) -> None:
        """Adds a document of plain text, or one of blocks, behind its title and what is said about it."""
        _refuse_citations(block, where)
        source = block.get("source")
        kind = source.get("type") if isinstance(source, dict) else None
        if not isinstance(source, dict) or kind not in ("text", "content"):
            if kind == "base64":
                raise BadRequest(f"{where}: PDF documents are not read here. Send their text as a source of type text.")
            refuse(f"{where}.source.type", "text or content: documents are neither fetched nor uploaded here")
        for field in ("title", "context"):
            if block.get(field) is not None:
                parts.add_text(text_at(block, field, where))
        if kind == "text":
            parts.add_text(text_at(source, "data", f"{where}.source"))
        else:
            self._add_all(parts, source.get("content"), f"{where}.source.content", ("text", "image"))

    def _add_all(self, parts: ContentParts, content: object, where: str, types: tuple[str, ...]) -> None:
        for block, place in blocks(content, where):
            if block.get("type") not in types:
                refuse_block(block, place)
            self.add(parts, block, place)


def blocks(content: object, where: str) -> Iterator[tuple[Mapping[str, Any], str]]:
    """Yields the blocks of a content and their places; a text counts as one block. Raises `BadRequest`."""
    if isinstance(content, str):
        yield {"type": "text", "text": readable(content, where)}, where
        return
    if not isinstance(content, list):
        refuse(where, "text or a list of content blocks")
    for index, block in enumerate(content):
        place = f"{where}[{index}]"
        if not isinstance(block, dict):
            refuse(place, 'an object like {"type": "text", "text": "…"}')
        yield block, place


def text_at(block: Mapping[str, Any], field: str, where: str) -> str:
    value = block.get(field)
    if not isinstance(value, str):
        refuse(f"{where}.{field}", "text")
    return readable(value, f"{where}.{field}")


def refuse_block(block: Mapping[str, Any], where: str) -> NoReturn:
    """Refuses a block by its type. Those of tools that Anthropic's own servers run are of such types."""
    kind = block.get("type")
    if not isinstance(kind, str):
        refuse(f"{where}.type", f"one of {', '.join(READ_AS_CONTENT)}")
    shown = f" of the type {kind}" if SHOWN_TYPE.fullmatch(kind) else ""
    raise BadRequest(f"{where}: a block{shown} is not supported here.", param="messages")


def _refuse_citations(block: Mapping[str, Any], where: str) -> None:
    citations = block.get("citations")
    if isinstance(citations, dict) and citations.get("enabled"):
        raise BadRequest(f"{where}.citations: {NO_CITATIONS}", param="messages")
