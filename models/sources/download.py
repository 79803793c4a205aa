"""Downloads one file over HTTP. A partial file stays as NAME.part, and the next attempt asks for the rest.

Size and checksum are enforced, and the file gets its final name only when both are right. Runs in the pull's own
process.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeAlias

from models.errors import FetchFailed
from models.sources.progress import ProgressCallback
from models.sources.retries import Interrupted, Pause, Retries

READ_BYTES = 1 << 20
LOCK_POLL_S = 0.2


@dataclass(frozen=True, slots=True)
class Body:
    """The body of a reply."""

    begins: int  # offset in the file; 0 when the server ignores ranges
    chunks: Iterator[bytes]
    ends: int | None = None  # bytes of the whole file, if the server tells


# Opens the file at an offset. Raises `Interrupted` for an error that a retry may solve, `FetchFailed` for any other.
Opener: TypeAlias = Callable[[int], AbstractContextManager[Body]]


def download(
    opener: Opener,
    target: Path,
    *,
    n_bytes: int | None,
    report: ProgressCallback,
    sha256: str | None = None,
    git_hash: str | None = None,
    name: str = "",
    on_size: Callable[[int], None] = lambda _: None,
    pause: Pause = time.sleep,
) -> None:
    """Writes `target`. Raises `FetchFailed`; the partial file is kept for the next attempt unless it is wrong.

    While another program downloads the file, this waits, and then goes on with what is there.

    git_hash: what git names the content by. name: what messages call the file. on_size: gets the bytes that are still
    to come as soon as a server tells, and may raise.
    """
    name = name or target.name
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    is_new = not target.exists()
    with _locked(part, lambda: report(f"waiting for another download of {name}", 0, 0), pause):
        if is_new and target.exists() and (n_bytes is None or size_of(target) == n_bytes):
            part.unlink()  # the other program has checked it
            return
        _download(opener, part, n_bytes, report, name, on_size, pause)
        kind, wanted = ("SHA-256", sha256) if sha256 is not None else ("checksum", git_hash)
        report(f"checking {name}", size_of(part), size_of(part))
        if wanted is not None and (found := _hash(part, git=sha256 is None)) != wanted.lower():
            part.unlink()
            raise FetchFailed(f"{name} has the wrong {kind} and was deleted", detail=f"{found} instead of {wanted}")
        part.replace(target)


@contextmanager
def _locked(part: Path, waits: Callable[[], None], pause: Pause) -> Iterator[None]:
    """Holds the lock on the partial file, which is created if it is not there."""
    while True:
        with part.open("ab") as file:
            while not _try_lock(file):
                waits()
                pause(LOCK_POLL_S)
            if _is_at(file, part):  # and was not put in its place, or deleted, by who had the lock before
                yield
                return


def _try_lock(file: BinaryIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(file: BinaryIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _download(
    opener: Opener,
    part: Path,
    n_bytes: int | None,
    report: ProgressCallback,
    name: str,
    on_size: Callable[[int], None],
    pause: Pause,
) -> None:
    retries = Retries(pause)
    while (have := size_of(part)) != n_bytes or n_bytes is None:
        try:
            with opener(have) as body:
                if body.ends is not None:
                    on_size(body.ends - body.begins)
                _receive(body, part, name, n_bytes, lambda done, total: report(f"downloading {name}", done, total))
            if n_bytes is None:
                break
        except Interrupted as error:
            try:
                retries.wait(error, progressed=size_of(part) > have)
            except Interrupted:
                raise FetchFailed(_gave_up(name, error), detail=str(error)) from error


def size_of(path: Path) -> int:
    """Returns 0 for a file that is not there."""
    return path.stat().st_size if path.exists() else 0


def _gave_up(name: str, error: Interrupted) -> str:
    if error.status == 429:
        return f"{name}: the server limits the rate of requests (429); pull again later to continue"
    if error.status is not None:
        return f"{name}: the server answers {error.status}; pull again later to continue"
    return f"{name}: the connection broke; pull again to continue"


def _hash(path: Path, *, git: bool) -> str:
    digest = hashlib.sha1(usedforsecurity=False) if git else hashlib.sha256()
    if git:
        digest.update(b"blob %d\0" % path.stat().st_size)
    with path.open("rb") as file:
        while chunk := file.read(READ_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _receive(body: Body, part: Path, name: str, n_bytes: int | None, advance: Callable[[int, int], None]) -> None:
    have = body.begins
    with part.open("ab") as file:
        file.truncate(have)
        for chunk in body.chunks:
            have += len(chunk)
            if n_bytes is not None and have > n_bytes:
                part.unlink()
                raise FetchFailed(f"{name} is larger than announced: {n_bytes} bytes")
            file.write(chunk)
            advance(have, n_bytes or body.ends or 0)
        file.flush()
        os.fsync(file.fileno())
    wanted = n_bytes if n_bytes is not None else body.ends
    if wanted is not None and have < wanted:
        raise Interrupted(f"ended at byte {have} of {wanted}")
