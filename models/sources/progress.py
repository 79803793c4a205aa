"""The callbacks that a download reports to."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

# (what is being done, bytes done, bytes in total or 0 when that is not known)
ProgressCallback: TypeAlias = Callable[[str, int, int], None]

# (bytes that are still to be downloaded, bytes that are free on the disk that gets them), before they are downloaded
SizeCallback: TypeAlias = Callable[[int, int], None]


def no_size(need_bytes: int, free_bytes: int) -> None:
    """The `SizeCallback` of a caller that does not show sizes."""
