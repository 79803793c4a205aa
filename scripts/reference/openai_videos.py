"""Videos: the fields that are done."""

from __future__ import annotations

from collections.abc import Iterator

from scripts.reference.writing import fields, item, paragraph


def section() -> Iterator[str]:
    from server.api.openai.video_schema import VideoCreation
    from server.api.openai.videos import CLIP, REFERENCED

    yield from ["## Videos", "", "The body is JSON or a form. Fields that are done:", ""]
    yield from fields(VideoCreation)
    yield from item(f"`input_reference`: {REFERENCED}")
    yield ""
    yield from paragraph("An edit has `prompt`, `model` and `video`; a remix has `prompt` alone.")
    yield from item(f"`video`: {CLIP}")
    yield ""
