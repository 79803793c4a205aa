"""Reads a checkpoint's weights into the page cache, so that torch does not wait for the disk. Any thread; no torch.

A model must be built on the device thread, because the libraries patch torch for the whole process meanwhile. Reading
its files needs no torch. A chunk that is in memory already is only probed.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from models.spec import ModelSpec
from pipelines.diffusion_interface import Adapter

CHUNK_BYTES = 8 << 20
SUFFIXES = (".safetensors", ".gguf")
MEMORY_SHARE = 0.7  # share of the available memory; more would only evict what was read first


def read_ahead(spec: ModelSpec) -> None:
    """Reads the weights of the checkpoint, its VAE and its embeddings, unless they exceed the available memory.

    Raises OSError for a file that cannot be read.
    """
    _read_all(list(_files((spec.path, spec.vae_path, *spec.embedding_paths))))


def read_adapter_ahead(adapter: Adapter) -> None:
    """Reads the weights of an adapter. One that cannot be read is left for its load, which tells why."""
    with suppress(OSError):
        _read_all(list(_files((Path(adapter.path),))))


def _read_all(files: Sequence[Path]) -> None:
    if sum(file.stat().st_size for file in files) > MEMORY_SHARE * psutil.virtual_memory().available:
        return
    buffer = bytearray(CHUNK_BYTES)
    for file in files:
        _read(file, buffer)


def _files(paths: Iterable[Path | None]) -> Iterator[Path]:
    for path in paths:
        if path is not None and path.is_dir():
            yield from sorted(file for file in path.rglob("*") if file.suffix in SUFFIXES and file.is_file())
        elif path is not None and path.suffix in SUFFIXES and path.is_file():
            yield path


def _read(file: Path, buffer: bytearray) -> None:
    """Reads the whole file chunk by chunk. Only the page cache keeps the data."""
    descriptor = os.open(file, os.O_RDONLY)
    try:
        for offset in range(0, os.fstat(descriptor).st_size, CHUNK_BYTES):
            if not _is_cached(descriptor, offset):
                os.preadv(descriptor, [buffer], offset)
    finally:
        os.close(descriptor)


def _is_cached(descriptor: int, offset: int) -> bool:
    """Returns whether the first byte of a chunk is in the page cache."""
    try:
        return os.preadv(descriptor, [bytearray(1)], offset, os.RWF_NOWAIT) == 1
    except OSError:  # the read would wait for the disk, or the file system does not support the flag
        return False
