"""Reads the header of a weight file of either format, once for as long as the file does not change. Any thread."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TypeAlias

from models.files.gguf_header import GgufTensor, read_gguf_header
from models.files.safetensors_header import Tensor, read_safetensors_header

Tensors: TypeAlias = Mapping[str, Tensor | GgufTensor]  # by name


def tensors_of(path: Path) -> Tensors:
    """Raises `BadModel` for a file whose header is not sound."""
    stat = path.stat()
    return _tensors_of(path, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=64)
def _tensors_of(path: Path, _mtime_ns: int, _n_bytes: int) -> Tensors:
    return read_gguf_header(path).tensors if path.suffix == ".gguf" else read_safetensors_header(path)
