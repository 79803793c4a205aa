"""The callback that a download reports its progress to."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

# (what is being done, bytes done, bytes in total or 0 when that is not known)
ProgressCallback: TypeAlias = Callable[[str, int, int], None]
