"""Hashes of LoRAs and checkpoints as AUTOMATIC1111 writes them, each computed once for a file. Worker threads only.

A checkpoint of many GB takes seconds to hash. It is hashed aside, once; images that are saved before that go without.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeAlias

Key: TypeAlias = tuple[str, int, int]  # path, bytes, time of the last change in ns

LORA_DIGITS, MODEL_DIGITS = 12, 10  # of the hexadecimal SHA-256
CHUNK_BYTES = 4 * 2**20
MAX_HEADER_BYTES = 100 * 10**6  # what safetensors itself allows


class FileHashes:
    def __init__(self, start: Callable[[Callable[[], None]], None] | None = None) -> None:
        """start: runs a function aside; by default on a thread of its own."""
        self._start = start or _on_thread
        self._lock = threading.Lock()  # so that outputs of one job do not hash the same LoRA at once
        self._known: dict[Key, str | None] = {}  # None: being hashed

    def lora(self, path: Path, stamp: int | None = None) -> str | None:
        """The hash of a LoRA's tensors without the header, as kohya's trainer and AUTOMATIC1111 have it.

        None when the file is gone or, with `stamp`, was changed since then.
        """
        with self._lock:
            try:
                key = _key(path)
                if stamp is not None and key[2] != stamp:
                    return None
                if key not in self._known:
                    self._known[key] = _lora_hash(path)[:LORA_DIGITS]
            except (OSError, ValueError):
                return None
            return self._known[key]

    def model(self, path: Path) -> str | None:
        """The hash of a checkpoint in one file. None: a folder, or not known yet; then it is computed aside."""
        try:
            if not path.is_file():
                return None
            key = _key(path)
        except OSError:
            return None
        with self._lock:
            if key in self._known:
                return self._known[key]
            self._known[key] = None
        self._start(lambda: self._hash_model(key))
        return None

    def _hash_model(self, key: Key) -> None:
        try:
            with open(key[0], "rb") as file:
                self._known[key] = hashlib.file_digest(file, "sha256").hexdigest()[:MODEL_DIGITS]
        except OSError:
            self._known.pop(key, None)


def _on_thread(work: Callable[[], None]) -> None:
    threading.Thread(target=work, name="model hash", daemon=True).start()


def _key(path: Path) -> Key:
    stat = path.stat()
    return str(path), stat.st_size, stat.st_mtime_ns


def _lora_hash(path: Path) -> str:
    with path.open("rb") as file:
        n_bytes = int.from_bytes(file.read(8), "little")
        if n_bytes > MAX_HEADER_BYTES:
            raise ValueError("not safetensors")
        if own := _hash_in_header(file.read(n_bytes)):
            return own
        digest = hashlib.sha256()
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
        return digest.hexdigest()


def _hash_in_header(header: bytes) -> str | None:
    """kohya's trainer writes the hash into the file; it stays the same when the file's other metadata are edited."""
    entries = json.loads(header)
    metadata = entries.get("__metadata__") if isinstance(entries, Mapping) else None
    own = metadata.get("sshs_model_hash") if isinstance(metadata, Mapping) else None
    if not isinstance(own, str) or len(own) != 64 or not all(digit in "0123456789abcdef" for digit in own):
        return None
    return own
