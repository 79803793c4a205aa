"""What a fetch gives back. Data only; any thread."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Fetched:
    path: Path
    source: str  # as it was asked for, or with the file that a repository turned out to consist of
    revision: str | None = None  # the commit of a hub repository
    component: str | None = None  # the class, where the files are one component (a VAE …) and no model of their own
    note: str | None = None  # a sentence for whoever asked for it
