"""Stores the files of outputs on disk: encodes and writes each one completely or not at all, signs links, deletes.

Called on the event loop; encoding, hashing and disk writes run on the worker pool. A file is named after its output's
random id, and the name always comes from the store, never from a URL.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import logging
import os
import re
import secrets
import string
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Executor
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from pipelines.fault_points import reach
from pipelines.interface import Sound
from server.jobs.encoding import EXTENSIONS, MIME_TYPES, FileMetadata, Format, encode, to_pixels
from server.marks import Marks
from server.store.opening import StoreUnusable

T = TypeVar("T")

logger = logging.getLogger(__name__)

BASE62 = string.digits + string.ascii_uppercase + string.ascii_lowercase
FILE_NAME = re.compile(r"[0-9A-Za-z]{22}\.[a-z0-9]{3,4}")
SECRET_BYTES = 32
SIGNATURE_BYTES = 18  # 144 bits; 24 characters in the URL


@dataclass(frozen=True, slots=True)
class SavedFile:
    file_name: str
    mime_type: str
    n_bytes: int
    sha256: str  # hexadecimal
    width: int
    height: int
    duration_s: float | None


def new_id() -> str:
    """A random id of 22 characters in base62, 131 bits."""
    number = secrets.randbelow(62**22)
    digits = []
    for _ in range(22):
        number, digit = divmod(number, 62)
        digits.append(BASE62[digit])
    return "".join(digits)


class Artifacts:
    def __init__(
        self,
        root: Path,
        pool: Executor,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        marks: Marks | None = None,
    ) -> None:
        """Creates `root` if needed and closes it to other users."""
        self._marks = marks
        self._outputs = root / "outputs"
        self._unfinished = root / "unfinished"
        self._pool = pool
        self._clock = clock
        for folder in (root, self._outputs, self._unfinished):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder.chmod(0o700)
        self._secret = load_or_create_secret(root / "link-secret")

    async def save(
        self,
        output_id: str,
        frames: NDArray[np.float32],
        sound: Sound | None,
        fmt: Format,
        metadata: FileMetadata,
        fps: int | None,
        job_id: str,
    ) -> SavedFile:
        """Encodes an output and writes it to disk; when this returns, the file survives a power cut.

        frames: (F, H, W, 3) float32 in [0, 1]. Raises `InvalidFrames`, `EncodingFailed`, `OSError`, and any other
        exception that an encoder raises; then it leaves no file.
        """

        def work() -> SavedFile:
            with nullcontext() if self._marks is None else self._marks.during("encode", jobs=[job_id]):
                reach("encode", job_id, fmt)
                return save()

        def save() -> SavedFile:
            pixels = to_pixels(frames)
            count, height, width, _ = pixels.shape
            file_name = f"{output_id}.{EXTENSIONS[fmt]}"
            unfinished = self._unfinished / file_name
            for folder in (self._outputs, self._unfinished):
                folder.mkdir(mode=0o700, exist_ok=True)  # somebody may have removed it
            try:
                os.close(os.open(unfinished, os.O_CREAT | os.O_EXCL, 0o600))  # the encoders keep its mode
                encode(pixels, fmt, metadata, fps or 1, unfinished, sound)
                with open(unfinished, "rb+") as file:
                    os.fsync(file.fileno())
                    digest = hashlib.file_digest(file, "sha256").hexdigest()
                    n_bytes = os.fstat(file.fileno()).st_size
                unfinished.rename(self._outputs / file_name)
                _sync_folder(self._outputs)
            finally:
                unfinished.unlink(missing_ok=True)
            duration_s = count / fps if fps else None
            return SavedFile(file_name, MIME_TYPES[fmt], n_bytes, digest, width, height, duration_s)

        return await self._on_pool(work)

    def path(self, file_name: str) -> Path | None:
        """The path of a file; None when it does not exist any more. file_name: from the store."""
        assert FILE_NAME.fullmatch(file_name), "save() makes the file names"
        path = self._outputs / file_name
        return path if path.is_file() and not path.is_symlink() else None

    async def delete(self, file_names: Sequence[str]) -> None:
        """Deletes the files; missing ones are ignored."""
        if file_names:
            await self._on_pool(lambda: self._delete(file_names))

    def _delete(self, file_names: Sequence[str]) -> None:
        for file_name in file_names:
            assert FILE_NAME.fullmatch(file_name), "save() makes the file names"
            (self._outputs / file_name).unlink(missing_ok=True)

    async def sweep(self, known: Collection[str]) -> int:
        """Removes the files that are not in `known`; returns their number. Call it at start, before any job runs."""

        def remove_unknown() -> int:
            removed = 0
            for path in self._outputs.iterdir():
                if path.name in known or path.is_dir():
                    continue
                try:
                    path.unlink()
                    removed += 1
                except OSError:
                    logger.exception("left-over file not removed", extra={"file": path.name})
            return removed

        return await self._on_pool(remove_unknown)

    def sign(self, output_id: str, expires_at: datetime) -> str:
        """The query string that opens this output without a key until `expires_at`; the same for the same arguments."""
        expires = int(expires_at.timestamp())
        return f"expires={expires}&signature={self._signature(output_id, expires)}"

    def verify(self, output_id: str, expires: str, signature: str) -> bool:
        """Whether a query string from `sign` is genuine and has not expired."""
        if not re.fullmatch(r"[0-9]{1,12}", expires, re.ASCII) or int(expires) < self._clock().timestamp():
            return False
        return hmac.compare_digest(self._signature(output_id, int(expires)).encode(), signature.encode())

    def _signature(self, output_id: str, expires: int) -> str:
        digest = hmac.digest(self._secret, f"{output_id} {expires}".encode(), "sha256")
        return base64.urlsafe_b64encode(digest[:SIGNATURE_BYTES]).decode()

    async def _on_pool(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, _contained(work))


def _contained(work: Callable[[], T]) -> Callable[[], T]:
    """Turns what is no `Exception` into one: a SystemExit, or the panic of a compiled library, would end the event
    loop of whoever waits for the work.
    """

    def run() -> T:
        try:
            return work()
        except Exception:
            raise
        except BaseException as error:
            raise RuntimeError(f"a worker ended with {type(error).__name__}") from error

    return run


def load_or_create_secret(path: Path) -> bytes:
    """Reads 32 random bytes from `path`; the first call creates the file. Raises `StoreUnusable` for a damaged one."""
    if not path.exists():
        unfinished = path.with_suffix(".new")
        unfinished.unlink(missing_ok=True)
        with open(os.open(unfinished, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
            file.write(secrets.token_bytes(SECRET_BYTES))
            os.fsync(file.fileno())
        unfinished.rename(path)
    secret = path.read_bytes()
    if len(secret) != SECRET_BYTES:  # with an empty one, anybody could sign
        text = f"{path} is damaged: it has {len(secret)} bytes instead of {SECRET_BYTES}. Restore it from a backup, or"
        raise StoreUnusable(f"{text} move it away: then a new one is made, and signatures of before are not known.")
    return secret


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
