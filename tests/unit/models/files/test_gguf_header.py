"""A GGUF header is read, or refused with `BadModel`, whatever is wrong with it."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import BadModel
from models.files.gguf_header import GgufTensor, read_gguf_header
from tests.support.checkpoints import gguf_bytes, gguf_string, gguf_tensor


def test_a_good_gguf_header_gives_metadata_and_shapes(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    entries = {
        "general.architecture": struct.pack("<I", 8) + gguf_string("llama"),
        "tokens": struct.pack("<IIQ", 9, 8, 2) + gguf_string("a") + gguf_string("ü"),
        "scores": struct.pack("<IIQ2f", 9, 6, 2, 0.5, 1.5),
    }
    path.write_bytes(gguf_bytes(entries=entries, tensors=[gguf_tensor("w", (8, 4)), gguf_tensor("q", (32,), 8, 128)]))

    header = read_gguf_header(path)

    assert header.metadata == {"general.architecture": "llama", "tokens": ["a", "ü"], "scores": [0.5, 1.5]}
    assert header.tensors == {"w": GgufTensor("F32", (4, 8), 128), "q": GgufTensor("Q8_0", (32,), 34)}


def test_a_gguf_tensor_may_have_five_dimensions(tmp_path: Path) -> None:
    path = tmp_path / "video.gguf"
    path.write_bytes(gguf_bytes(tensors=[gguf_tensor("patch_embedding.weight", (2, 2, 1, 4, 8))], data=512))

    assert read_gguf_header(path).tensors["patch_embedding.weight"].shape == (8, 4, 1, 2, 2)


def original_shape(*sizes: int) -> bytes:
    return struct.pack(f"<IIQ{len(sizes)}i", 9, 5, len(sizes), *sizes)


def test_a_gguf_tensor_that_was_stored_in_another_shape_has_its_original_one(tmp_path: Path) -> None:
    path = tmp_path / "unet.gguf"
    entries = {"comfy.gguf.orig_shape.w": original_shape(4, 2, 2, 2)}
    path.write_bytes(gguf_bytes(entries=entries, tensors=[gguf_tensor("w", (8, 4))]))

    assert read_gguf_header(path).tensors["w"].shape == (4, 2, 2, 2)


BAD_GGUF = {
    "array said to have 2^40 entries": gguf_bytes(entries={"a": struct.pack("<IIQ", 9, 4, 1 << 40)}),
    "array longer than the file": gguf_bytes(entries={"a": struct.pack("<IIQ", 9, 4, 100_000)}),
    "array of arrays": gguf_bytes(entries={"a": struct.pack("<IIQ", 9, 9, 1)}),
    "2^60 metadata entries": gguf_bytes(n_entries=1 << 60),
    "2^60 tensors": gguf_bytes(n_tensors=1 << 60),
    "more tensors than there are": gguf_bytes(n_tensors=3, data=0),
    "string longer than the file": gguf_bytes(entries={"a": struct.pack("<IQ", 8, 1 << 30)}),
    "string that is not text": gguf_bytes(entries={"a": struct.pack("<IQ", 8, 2) + b"\xff\xfe"}),
    "unknown metadata type": gguf_bytes(entries={"a": struct.pack("<I", 77)}),
    "version 1": gguf_bytes(version=1),
    "version of the other byte order": gguf_bytes(version=3 << 24),
    "tensor past the end": gguf_bytes(tensors=[gguf_tensor(shape=(1 << 20,))]),
    "tensor offset past the end": gguf_bytes(tensors=[gguf_tensor(offset=1 << 40)]),
    "dimension of zero": gguf_bytes(tensors=[gguf_tensor(shape=(8, 0))]),
    "no dimensions": gguf_bytes(tensors=[gguf_tensor(shape=())]),
    "nine dimensions": gguf_bytes(tensors=[gguf_tensor(shape=(1,) * 9)]),
    "dimensions that overflow": gguf_bytes(tensors=[gguf_tensor(shape=(1 << 40, 1 << 40))]),
    "half a quantised block": gguf_bytes(tensors=[gguf_tensor(shape=(33,), kind=8)]),
    "unknown tensor type": gguf_bytes(tensors=[gguf_tensor(kind=4000)]),
    "the same tensor twice": gguf_bytes(tensors=[gguf_tensor(), gguf_tensor()]),
    "a dunder in the name": gguf_bytes(tensors=[gguf_tensor("a.__init__.b")]),
    "an original shape of other size": gguf_bytes(
        entries={"comfy.gguf.orig_shape.t": original_shape(3, 3)}, tensors=[gguf_tensor()]
    ),
    "alignment of zero": gguf_bytes(entries={"general.alignment": struct.pack("<II", 4, 0)}),
    "alignment of 2^31": gguf_bytes(entries={"general.alignment": struct.pack("<II", 4, 1 << 31)}),
    "not GGUF": b"GGML" + bytes(100),
}


@pytest.mark.parametrize("case", BAD_GGUF)
def test_a_gguf_header_with_a_false_claim_is_refused(tmp_path: Path, case: str) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(BAD_GGUF[case])

    with pytest.raises(BadModel):
        read_gguf_header(path)


@given(st.data())
def test_a_gguf_file_cut_or_changed_anywhere_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    entries = {"n": struct.pack("<II", 4, 7), "s": struct.pack("<IIQ", 9, 8, 1) + gguf_string("x")}
    content = bytearray(gguf_bytes(entries=entries, tensors=[gguf_tensor()]))
    content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("mutated") / "m.gguf"
    path.write_bytes(content[: data.draw(st.integers(4, len(content)))])

    try:
        read_gguf_header(path)
    except BadModel:
        return
    assert path.stat().st_size >= 200  # the whole header and the tensor after it


@pytest.mark.parametrize(
    "layers", [struct.pack("<IQ", 10, 10**12), struct.pack("<If", 6, 1.5), struct.pack("<IQ", 10, 0)]
)
def test_an_impossible_number_of_layers_is_refused(tmp_path: Path, layers: bytes) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf_bytes(entries={"qwen2.block_count": layers}, tensors=[gguf_tensor()]))
    with pytest.raises(BadModel, match="block_count is not a number of layers"):
        read_gguf_header(path)
