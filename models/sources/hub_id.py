"""Parses the name of a repository of the model hub, or of a file in one. Pure functions; any thread.

"owner/name", "owner/name@revision", "owner/name:folder/x.gguf", "owner/name@refs/pr/3:x.safetensors"
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath

HUB_ID = re.compile(
    r"(?P<repo>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)"
    r"(@(?P<revision>[\w.+-]+(/[\w.+-]+)*))?"
    r"(:(?P<file>[^:\\\x00-\x1f]+\.(safetensors|gguf)))?"
)
COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class HubId:
    repo: str
    revision: str | None  # branch, tag, "refs/pr/3" or commit; None: the branch main
    file: str | None  # path inside the repository; None: the repository as a folder

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision is not None else ""
        return f"{self.repo}{revision}{f':{self.file}' if self.file is not None else ''}"


def hub_id(source: str) -> HubId | None:
    """Returns None for a text that is not the name of a repository or of a file in one."""
    match = HUB_ID.fullmatch(source)
    if match is None:
        return None
    revision, file = match["revision"], match["file"]
    if any(name is not None and not stays_inside(name) for name in (revision, file)):
        return None
    return HubId(match["repo"], revision, file)


def stays_inside(name: str) -> bool:
    """Returns whether a path of a repository, joined to a folder, stays below that folder on every system."""
    return not name.startswith("/") and "\\" not in name and not {"..", "."} & {*PurePosixPath(name).parts}


def at_revision(source: str, revision: str) -> str:
    """Returns the source of the same repository or file at `revision`, which replaces the one in `source`."""
    repo, colon, file = source.partition(":")
    return f"{repo.partition('@')[0]}@{revision}{colon}{file}"
