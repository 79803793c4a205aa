"""Reads a checkpoint's weights into the system's page cache, so that opening it with torch does not wait for the disk. Any thread; no torch.

Building a model belongs to the device thread, because the libraries patch torch for the whole process while they do it; reading its
files does not. What is in memory already is only probed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import psutil

from models.spec import ModelSpec

CHUNK = 8 << 20
SUFFIXES = (".safetensors", ".gguf")
SHARE = 0.7  # of the memory that is available: more would only push out what was read first


def read_ahead(spec: ModelSpec) -> None:
    """Raises OSError for a file that cannot be read."""
    files = list(_files(spec))
    if sum(file.stat().st_size for file in files) > SHARE * psutil.virtual_memory().available:
        return
    buffer = bytearray(CHUNK)
    for file in files:
        _read(file, buffer)


def _files(spec: ModelSpec) -> Iterator[Path]:
    for path in (spec.path, spec.vae_path, *spec.embedding_paths):
        if path is not None and path.is_dir():
            yield from sorted(file for file in path.rglob("*") if file.suffix in SUFFIXES and file.is_file())
        elif path is not None and path.suffix in SUFFIXES and path.is_file():
            yield path


def _read(file: Path, buffer: bytearray) -> None:
    """Whole, a chunk at a time; nothing of it is kept but by the system."""
    descriptor = os.open(file, os.O_RDONLY)
    try:
        for offset in range(0, os.fstat(descriptor).st_size, CHUNK):
            if not _is_cached(descriptor, offset):
                os.preadv(descriptor, [buffer], offset)
    finally:
        os.close(descriptor)


def _is_cached(descriptor: int, offset: int) -> bool:
    """Whether a chunk's first byte can be had without waiting."""
    try:
        return os.preadv(descriptor, [bytearray(1)], offset, os.RWF_NOWAIT) == 1
    except OSError:  # it would wait, or the file system cannot tell
        return False
