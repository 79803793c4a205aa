"""What the process that decodes tells the server about a file."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Decoded:
    """A file that was read wholly and written in the form in which it is kept."""

    mime_type: str  # of the file as it is kept: image/png, video/mp4 or video/webm
    width: int  # pixels, upright
    height: int  # pixels
    num_frames: int = 1
    fps: float | None = None  # None for a picture
    warnings: tuple[str, ...] = ()  # sentences about what was left out


class Refused(Exception):
    """The message says what the file must be instead, and may be shown to the client."""
