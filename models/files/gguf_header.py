"""Reads the header of a GGUF file with a bound on every count, so that a lying file ends in `BadModel`. Any thread.

It runs before any library opens the file. The gguf library's own reader loops without end on an array of 2^40 claimed
entries and accepts dimensions of zero; a tensor larger than its file let CVE-2026-7482 read foreign memory.
Format: GGUF versions 2 and 3, little-endian.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeAlias

from models.errors import BadModel
from models.files.file_kind import sniff
from models.files.regular_file import open_file
from models.files.safetensors_header import check_tensor_name

Value: TypeAlias = int | float | bool | str | list[int] | list[float] | list[bool] | list[str]

MAX_COUNT = 1_000_000  # array entries; the largest vocabularies have 300,000
MAX_TENSORS = 200_000
MAX_ENTRIES = 65_536  # of metadata
MAX_HEADER_BYTES = 256 << 20  # a vocabulary of 300,000 words with its merges takes 20 MiB
MAX_STRING_BYTES = 16 << 20
MAX_ALIGNMENT = 64 << 10
MAX_LAYERS = 4096  # a library makes each layer before it looks at the tensors; the deepest models have 150
MAX_DIMS = 8  # a video's patch embedding has 5: (out, in, frames, height, width)
STRING, ARRAY = 8, 9
SCALARS = {  # metadata type → struct format
    0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d",
}  # fmt: skip
TYPES = {  # tensor type → its name, and (elements, bytes) per block; from gguf.constants.GGML_QUANT_SIZES
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 40), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82), 23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4), 27: ("I64", 1, 8), 28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2), 34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17), 40: ("NVFP4", 64, 36), 41: ("Q1_0", 128, 18),
}  # fmt: skip
RESHAPED = "comfy.gguf.orig_shape."  # metadata of a tensor that was stored in another shape, to fill its blocks


@dataclass(frozen=True, slots=True)
class GgufTensor:
    dtype: str  # "Q4_K"
    shape: tuple[int, ...]  # as a module has it: the dimension that changes fastest is the last
    stored_bytes: int

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class GgufHeader:
    metadata: dict[str, Value]
    tensors: dict[str, GgufTensor]


def read_gguf_header(path: Path) -> GgufHeader:
    """Raises `BadModel` for an unknown type, a count above its bound, and an offset past the end of the file."""
    if sniff(path) != "gguf":
        raise BadModel(f"{path.name} is not a GGUF file", detail=str(path))
    with open_file(path) as file:
        reader = _Reader(file, path.stat().st_size, path.name)
        file.seek(4)
        if reader.scalar("<I") not in (2, 3):
            raise BadModel(f"{path.name}: its GGUF version is not 2 or 3")
        n_tensors, n_entries = reader.count("<Q", MAX_TENSORS), reader.count("<Q", MAX_ENTRIES)
        metadata = reader.metadata(n_entries)
        for key, value in metadata.items():
            if key.endswith(".block_count") and (not isinstance(value, int) or not 0 < value <= MAX_LAYERS):
                raise BadModel(f"{path.name}: {key} is not a number of layers from 1 to {MAX_LAYERS}")
        return GgufHeader(metadata, reader.tensors(n_tensors, metadata))


class _Reader:
    def __init__(self, file: BinaryIO, file_bytes: int, name: str) -> None:
        self._file = file
        self._file_bytes = file_bytes
        self._left = min(file_bytes, MAX_HEADER_BYTES)  # bytes that the header may still have
        self._name = name

    def bad(self, what: str) -> BadModel:
        return BadModel(f"{self._name}: {what}")

    def scalar(self, layout: str) -> int | float | bool:
        (value,) = struct.unpack(layout, self._bytes(struct.calcsize(layout)))
        return value  # type: ignore[no-any-return]  # struct returns Any; SCALARS has only these three types

    def _bytes(self, n_bytes: int) -> bytes:
        self._left -= n_bytes
        if self._left < 0 and self._file_bytes > MAX_HEADER_BYTES:
            raise self.bad(f"a header of more than {MAX_HEADER_BYTES >> 20} MiB")
        if self._left < 0 or len(raw := self._file.read(n_bytes)) != n_bytes:
            raise self.bad("the header runs past the end of the file")
        return raw

    def count(self, layout: str, limit: int = MAX_COUNT) -> int:
        value = int(self.scalar(layout))
        if value > limit:
            raise self.bad(f"a count of {value}, the limit is {limit}")
        return value

    def string(self) -> str:
        raw = self._bytes(self.count("<Q", min(MAX_STRING_BYTES, self._file_bytes)))
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise self.bad("a string that is not UTF-8") from error

    def metadata(self, n_entries: int) -> dict[str, Value]:
        found: dict[str, Value] = {}
        for _ in range(n_entries):
            key = self.string()
            if key in found:
                raise self.bad("the same metadata key twice")
            found[key] = self._value(int(self.scalar("<I")))
        return found

    def _value(self, kind: int) -> Value:
        if kind == STRING:
            return self.string()
        if kind != ARRAY:
            return self.scalar(self._layout(kind))
        item = int(self.scalar("<I"))  # _layout refuses an array of arrays
        n_items = self.count("<Q")
        if item == STRING:
            return [self.string() for _ in range(n_items)]
        layout = self._layout(item)
        raw = self._bytes(struct.calcsize(layout) * n_items)
        return [value for (value,) in struct.iter_unpack(layout, raw)]

    def _layout(self, kind: int) -> str:
        if kind not in SCALARS:
            raise self.bad(f"metadata of unknown type {kind}")
        return SCALARS[kind]

    def tensors(self, n_tensors: int, metadata: dict[str, Value]) -> dict[str, GgufTensor]:
        alignment = metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or not 1 <= alignment <= MAX_ALIGNMENT:
            raise self.bad("an alignment outside 1 … 65536")
        tensors: dict[str, GgufTensor] = {}
        end = 0
        for _ in range(n_tensors):
            name = self.string()
            check_tensor_name(name, self._name)
            if name in tensors:
                raise self.bad("the same tensor twice")
            dimensions = tuple(int(self.scalar("<Q")) for _ in range(self.count("<I", MAX_DIMS)))
            tensors[name] = self._tensor(name, dimensions, int(self.scalar("<I")), metadata)
            end = max(end, int(self.scalar("<Q")) + tensors[name].stored_bytes)
        header_bytes = self._file.tell()
        data_begin = header_bytes + -header_bytes % alignment
        if tensors and data_begin + end > self._file_bytes:
            raise self.bad("a tensor reaches past the end of the file")
        return tensors

    def _tensor(self, name: str, dimensions: tuple[int, ...], kind: int, metadata: dict[str, Value]) -> GgufTensor:
        if kind not in TYPES:
            raise self.bad(f"the tensor '{name[:80]}' has the unknown type {kind}")
        kind_name, block_elements, block_bytes = TYPES[kind]
        elements = math.prod(dimensions)
        if not dimensions or min(dimensions) < 1 or elements >= 1 << 63 or dimensions[0] % block_elements:
            raise self.bad(f"the tensor '{name[:80]}' has impossible dimensions")
        shape, original = dimensions[::-1], metadata.get(RESHAPED + name)
        if isinstance(original, list):
            shape = tuple(size for size in original if type(size) is int and size > 0)
            if len(shape) != len(original) or math.prod(shape) != elements:
                raise self.bad(f"the original shape of the tensor '{name[:80]}' does not fit it")
        return GgufTensor(kind_name, shape, elements // block_elements * block_bytes)
