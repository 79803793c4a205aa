"""How a source tells how far it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

Report: TypeAlias = Callable[[str, int, int], None]  # what is being done, bytes done, bytes in all (0: not known)
