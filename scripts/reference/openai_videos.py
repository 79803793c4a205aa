"""Videos: the fields that are done."""

from __future__ import annotations

from collections.abc import Iterator

from scripts.reference.writing import fields


def section() -> Iterator[str]:
    from server.api.openai.video_schema import VideoCreation

    yield from ["## Videos", "", "The body is JSON or a form. Fields that are done:", ""]
    yield from fields(VideoCreation)
    yield ""
