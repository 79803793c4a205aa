"""A safetensors header is read, or refused with `BadModel`, whatever is wrong with it."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import BadModel
from models.files.file_kind import sniff
from models.files.safetensors_header import read_safetensors_header
from tests.support.checkpoints import ONE_F16, gguf_bytes, safetensors_bytes


def test_the_content_of_a_file_decides_its_format_not_its_name(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    for content, kind in [(ONE_F16, "safetensors"), (gguf_bytes(), "gguf"), (b"", "unknown"), (b"hello", "unknown")]:
        path.write_bytes(content)

        assert sniff(path) == kind


def test_a_good_header_gives_dtypes_and_shapes(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(safetensors_bytes({"a": ("F32", [2, 3], 24), "b.scale": ("BF16", [], 2)}, __metadata__={"k": "v"}))

    tensors = read_safetensors_header(path)

    assert {name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()} == {
        "a": ("F32", (2, 3)),
        "b.scale": ("BF16", ()),
    }


def raw(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


F32 = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
BAD_SAFETENSORS = {
    "header longer than the file": struct.pack("<Q", 1000) + b"{}",
    "header of 2^63 bytes": struct.pack("<Q", 1 << 63) + b"{}",
    "not JSON": raw(b"{nonsense"),
    "not UTF-8": raw(b'{"\xff": 1}'),
    "deep nesting": raw(b'{"a":' * 100_000),
    "tensor past the end": raw({"a": F32}),
    "trailing bytes": raw({"a": F32}, bytes(8)),
    "overlap": raw({"a": F32, "b": F32}, bytes(4)),
    "hole": raw({"a": F32, "b": F32 | {"data_offsets": [8, 12]}}, bytes(12)),
    "negative offset": raw({"a": F32 | {"data_offsets": [-4, 0]}}),
    "negative size": raw({"a": F32 | {"shape": [-1]}}, bytes(4)),
    "size a truth value": raw({"a": F32 | {"shape": [True]}}, bytes(4)),
    "shape unlike its bytes": raw({"a": F32 | {"shape": [2]}}, bytes(4)),
    "shape that would overflow": raw({"a": F32 | {"shape": [1 << 62, 1 << 62]}}, bytes(4)),
    "unknown dtype": raw({"a": F32 | {"dtype": "F4"}}, bytes(4)),
    "entry of another form": raw({"a": [1, 2]}),
    "the same name twice": raw(
        b'{"a":' + json.dumps(F32).encode() + b',"a":' + json.dumps(F32).encode() + b"}", bytes(4)
    ),
    "a dunder in the name": raw({"model.__class__.x": F32}, bytes(4)),
    "an endless name": raw({"n" * 513: F32}, bytes(4)),
}


@pytest.mark.parametrize("case", BAD_SAFETENSORS)
def test_a_safetensors_header_with_a_false_claim_is_refused(tmp_path: Path, case: str) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(BAD_SAFETENSORS[case])

    with pytest.raises(BadModel):
        read_safetensors_header(path)


@given(position=st.integers(0, 150), byte=st.integers(0, 255))
def test_a_safetensors_file_with_any_byte_changed_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, position: int, byte: int
) -> None:
    content = bytearray(safetensors_bytes({"a": ("F32", [2, 3], 24), "b": ("F16", [4], 8)}))
    content[position % len(content)] = byte
    path = tmp_path_factory.mktemp("mutated") / "m.safetensors"
    path.write_bytes(content)

    try:
        tensors = read_safetensors_header(path)
    except BadModel:
        return
    assert sum(tensor.elements for tensor in tensors.values()) < 100


@pytest.mark.parametrize("metadata", [{"a": {"b": "c"}}, {"a": 1}, ["a"], "a"])
def test_metadata_that_the_library_cannot_read_is_refused(tmp_path: Path, metadata: object) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(safetensors_bytes({"a": ("F32", [1], 4)}, __metadata__=metadata))
    with pytest.raises(BadModel, match="metadata"):
        read_safetensors_header(path)
