"""Edits of a GGUF that is a language model: its bytes, its tensors, its metadata and the tokenizer in its metadata."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from benchmarks.damage_configs import JUNK, NUMBERS
from benchmarks.damage_copy import Copy
from benchmarks.damage_weights import LFS_POINTER

Tensors = dict[str, "np.ndarray[Any, Any]"]
INTERNAL = "GGUF."  # prefix of the reader's own fields: version and counts
TOKENS = "tokenizer.ggml.tokens"


def write_gguf(path: Path, metadata: Mapping[str, Any], tensors: Mapping[str, Any]) -> None:
    """Writes strings, whole numbers (uint32), other numbers (float32) and lists of one kind."""
    path.unlink(missing_ok=True)
    writer = gguf.GGUFWriter(path, str(metadata["general.architecture"]))
    for key, value in metadata.items():
        if key != "general.architecture":  # the writer adds it
            writer.add_key_value(key, value, _kind(value))
    for name, tensor in tensors.items():
        writer.add_tensor(name, np.ascontiguousarray(tensor))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _kind(value: object) -> gguf.GGUFValueType:
    match value:
        case bool():
            return gguf.GGUFValueType.BOOL
        case str():
            return gguf.GGUFValueType.STRING
        case int():
            return gguf.GGUFValueType.UINT32 if 0 <= value < 2**32 else gguf.GGUFValueType.INT64
        case float():
            return gguf.GGUFValueType.FLOAT32
        case _:
            return gguf.GGUFValueType.ARRAY


def read_gguf(path: Path) -> tuple[dict[str, Any], Tensors]:
    reader = gguf.GGUFReader(path)
    fields = {name: field.contents() for name, field in reader.fields.items() if not name.startswith(INTERNAL)}
    return fields, {tensor.name: np.array(tensor.data) for tensor in reader.tensors}


def _path(copy: Copy) -> Path:
    return next(iter(copy.root.rglob("*.gguf")))


def _in_bytes(change: Callable[[Copy, bytearray], str]) -> Callable[[Copy], str | None]:
    def edit(copy: Copy) -> str | None:
        content = bytearray(_path(copy).read_bytes())
        what = change(copy, content)
        copy.write(_path(copy), bytes(content))
        return f"{copy.told(_path(copy))}: {what}"

    edit.__name__ = change.__name__
    return edit


def _header_bytes(content: bytearray) -> int:
    """Returns where the data begin, roughly: the name of the last tensor is near the end of the header."""
    return content.rindex(b".weight") + 32


@_in_bytes
def gguf_byte(copy: Copy, content: bytearray) -> str:
    place = copy.choose.randrange(_header_bytes(content))
    content[place] ^= 1 << copy.choose.randrange(8)
    return f"a bit of byte {place}, in the header"


@_in_bytes
def gguf_count(copy: Copy, content: bytearray) -> str:
    place = copy.choose.randrange(4, 24)  # version, number of tensors, number of entries
    content[place] ^= 1 << copy.choose.randrange(8)
    return f"a bit of byte {place}, in the counts"


@_in_bytes
def gguf_truncated(copy: Copy, content: bytearray) -> str:
    n_bytes = len(content)
    kept = copy.choose.choice([0, 4, 24, copy.choose.randrange(n_bytes), n_bytes - 1])
    del content[kept:]
    return f"{kept} of {n_bytes} bytes"


@_in_bytes
def gguf_extended(copy: Copy, content: bytearray) -> str:
    content += bytes(4096)
    return "4096 bytes more"


@_in_bytes
def gguf_other_content(copy: Copy, content: bytearray) -> str:
    content[:] = LFS_POINTER.encode()
    return "a pointer of git-lfs"


def _in_parts(change: Callable[[Copy, dict[str, Any], Tensors], str | None]) -> Callable[[Copy], str | None]:
    """Makes an edit of a change to metadata and tensors: the file stays well formed."""

    def edit(copy: Copy) -> str | None:
        metadata, tensors = read_gguf(_path(copy))
        what = change(copy, metadata, tensors)
        if what is None:
            return None
        write_gguf(_path(copy), metadata, tensors)
        return f"{copy.told(_path(copy))}: {what}"

    edit.__name__ = change.__name__
    return edit


@_in_parts
def gguf_dropped(copy: Copy, metadata: dict[str, Any], tensors: Tensors) -> str:
    name = copy.choose.choice(sorted(tensors))
    del tensors[name]
    return f"without {name}"


@_in_parts
def gguf_renamed(copy: Copy, metadata: dict[str, Any], tensors: Tensors) -> str:
    name = copy.choose.choice(sorted(tensors))
    tensors[f"{name}_old"] = tensors.pop(name)
    return f"{name} is called {name}_old"


@_in_parts
def gguf_shape(copy: Copy, metadata: dict[str, Any], tensors: Tensors) -> str | None:
    name = copy.choose.choice(sorted(tensors))
    before = tensors[name]
    options = [before.T, before.reshape(-1), before[None], before[..., :-1], np.concatenate([before, before])]
    tensors[name] = copy.choose.choice([option for option in options if option.shape != before.shape])
    return f"{name} has shape {tensors[name].shape}, had {before.shape}"


@_in_parts
def gguf_values(copy: Copy, metadata: dict[str, Any], tensors: Tensors) -> str:
    name = copy.choose.choice(sorted(tensors))
    value = copy.choose.choice([np.nan, np.inf, 0.0, 1e30])
    tensors[name] = np.full_like(tensors[name], value)
    return f"all of {name} {value}"


@_in_parts
def gguf_cast(copy: Copy, metadata: dict[str, Any], tensors: Tensors) -> str:
    name = copy.choose.choice(sorted(tensors))
    dtype = copy.choose.choice([np.float16, np.float64, np.int8, np.int32])
    tensors[name] = tensors[name].astype(dtype)
    return f"{name} as {np.dtype(dtype).name}"


@_in_parts
def gguf_added(copy: Copy, metadata: dict[str, Any], tensors: Tensors) -> str:
    name = copy.choose.choice(["rope_freqs.weight", "blk.9.attn_q.weight", "an.unknown.weight"])
    tensors[name] = next(iter(tensors.values()))
    return f"with {name}"


def _keys(metadata: Mapping[str, Any], of_tokenizer: bool) -> list[str]:
    return [key for key in metadata if key.startswith("tokenizer.") == of_tokenizer and key != "general.architecture"]


@_in_parts
def gguf_number(copy: Copy, metadata: dict[str, Any], tensors: Tensors) -> str | None:
    keys = [key for key in _keys(metadata, False) if isinstance(metadata[key], int | float)]
    key = copy.choose.choice(keys)
    before, after = metadata[key], copy.choose.choice(NUMBERS[:-1])(metadata[key])
    metadata[key] = int(after) if isinstance(before, int) else float(after)
    return None if metadata[key] == before else f"{key} is {metadata[key]}, was {before}"


@_in_parts
def gguf_key_dropped(copy: Copy, metadata: dict[str, Any], tensors: Tensors) -> str:
    key = copy.choose.choice(_keys(metadata, False))
    del metadata[key]
    return f"without {key}"


@_in_parts
def gguf_other_type(copy: Copy, metadata: dict[str, Any], tensors: Tensors) -> str:
    key = copy.choose.choice(_keys(metadata, False))
    metadata[key] = copy.choose.choice([value for value in JUNK if isinstance(value, str | int | float)] + [[1, 2]])
    return f"{key} is {metadata[key]!r}"


@_in_parts
def gguf_architecture(copy: Copy, metadata: dict[str, Any], tensors: Tensors) -> str:
    metadata["general.architecture"] = copy.choose.choice(["llama", "nothing", "", "flux", "t5"])
    return f"general.architecture is {metadata['general.architecture']!r}"


@_in_parts
def gguf_tokenizer_key(copy: Copy, metadata: dict[str, Any], tensors: Tensors) -> str:
    key = copy.choose.choice(_keys(metadata, True))
    if copy.choose.random() < 0.5:
        del metadata[key]
        return f"without {key}"
    metadata[key] = copy.choose.choice(["text", "{% for", 5, 10**6, [1, 2], ["a", "b"]])
    return f"{key} is {metadata[key]!r}"


@_in_parts
def gguf_words(copy: Copy, metadata: dict[str, Any], tensors: Tensors) -> str:
    words = list(metadata[TOKENS])
    metadata[TOKENS] = copy.choose.choice([words[: len(words) // 2], words[:-1], [*words, "another"], words[::-1]])
    return f"{len(metadata[TOKENS])} words of {len(words)}, the first {metadata[TOKENS][0]!r}"


GGUF = {
    "header": (gguf_byte, gguf_count, gguf_truncated, gguf_extended, gguf_other_content),
    "tensor": (gguf_dropped, gguf_renamed, gguf_shape, gguf_values, gguf_cast, gguf_added),
    "config": (gguf_number, gguf_key_dropped, gguf_other_type, gguf_architecture),
    "tokenizer": (gguf_tokenizer_key, gguf_words),
}
