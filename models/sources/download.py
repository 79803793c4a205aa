"""Downloads one file over HTTP. A partial file stays as NAME.part, and the next attempt asks for the rest.

Size and SHA-256 are enforced, and the file gets its final name only when both are right. Runs in the pull's own
process.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from models.errors import FetchFailed
from models.sources.progress import ProgressCallback

MAX_TRIES = 5  # failures in a row; an attempt that brings new bytes resets the count


@dataclass(frozen=True, slots=True)
class Body:
    """The body of a reply."""

    begins: int  # offset in the file; 0 when the server ignores ranges
    chunks: Iterator[bytes]
    ends: int | None = None  # bytes of the whole file, if the server tells


# Opens the file at an offset. Raises `Interrupted` for an error that a retry may solve, `FetchFailed` for any other.
Opener: TypeAlias = Callable[[int], AbstractContextManager[Body]]


class Interrupted(Exception):
    """The connection broke; the same request may succeed later."""


def download(
    opener: Opener, target: Path, *, n_bytes: int | None, sha256: str | None, report: ProgressCallback
) -> None:
    """Writes `target`. Raises `FetchFailed`; the partial file is kept for the next attempt unless it is wrong."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    tries = MAX_TRIES
    while (have := part.stat().st_size if part.exists() else 0) != n_bytes or n_bytes is None:
        try:
            _receive(opener, part, have, n_bytes, lambda done, total: report(f"downloading {target.name}", done, total))
            if n_bytes is None:
                break
        except Interrupted as error:
            tries = MAX_TRIES if part.exists() and part.stat().st_size > have else tries - 1
            if not tries:
                raise FetchFailed(
                    f"{target.name}: the connection broke; pull again to continue", detail=str(error)
                ) from error
    if sha256 is not None:
        report(f"checking {target.name}", 0, 0)
        with part.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != sha256.lower():
            part.unlink()
            raise FetchFailed(
                f"{target.name} has the wrong SHA-256 and was deleted", detail=f"{found} instead of {sha256}"
            )
    part.rename(target)


def _receive(opener: Opener, part: Path, have: int, n_bytes: int | None, advance: Callable[[int, int], None]) -> None:
    with opener(have) as body, part.open("ab") as file:
        if body.begins != have:
            file.truncate(body.begins)
            have = body.begins
        for chunk in body.chunks:
            have += len(chunk)
            if n_bytes is not None and have > n_bytes:
                part.unlink()
                raise FetchFailed(f"{part.stem} is larger than announced: {n_bytes} bytes")
            file.write(chunk)
            advance(have, n_bytes or body.ends or 0)
        file.flush()
        os.fsync(file.fileno())
    wanted = n_bytes if n_bytes is not None else body.ends
    if wanted is not None and have < wanted:
        raise Interrupted(f"ended at byte {have} of {wanted}")
