"""Weight files and configs as strangers send them: every lie ends in BadModel, quickly, and nothing of theirs runs."""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import BadModel
from models.files import read_safetensors_header, sniff, variant, weight_bytes, weight_files
from models.gguf_header import read_gguf_header
from models.preflight import check_folder
from tests.support.checkpoints import (
    ONE_F16,
    chat_folder,
    gguf_bytes,
    gguf_string,
    gguf_tensor,
    safetensors_bytes,
    stable_diffusion_folder,
    write_json,
)


class Canary:
    """Unpickled, it would create the file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return (open, (str(self.path), "w"))


def pickles(canary: Path) -> dict[str, bytes]:
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Canary(canary)))
    by_protocol = {f"protocol {n}": pickle.dumps(Canary(canary), protocol=n) for n in range(6)}
    return by_protocol | {"torch.save": zipped.getvalue()}


# What a file is


def test_content_decides_what_a_file_is_not_its_name(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    for content, kind in [(ONE_F16, "safetensors"), (gguf_bytes(), "gguf"), (b"", "unknown"), (b"hello", "unknown")]:
        path.write_bytes(content)

        assert sniff(path) == kind


@pytest.mark.parametrize("name", ["protocol 0", "protocol 2", "protocol 5", "torch.save"])
def test_a_pickle_called_safetensors_is_refused_and_never_run(tmp_path: Path, name: str) -> None:
    canary = tmp_path / "canary"
    folder = chat_folder(tmp_path / "model")
    (folder / "model.safetensors").write_bytes(pickles(canary)[name])

    with pytest.raises(BadModel, match="not a safetensors file"):
        check_folder(folder)

    assert not canary.exists()


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.ckpt", "model.pth", "model.pkl"])
def test_a_folder_with_its_weights_only_as_pickle_is_refused(tmp_path: Path, name: str) -> None:
    canary = tmp_path / "canary"
    folder = chat_folder(tmp_path / "model")
    (folder / "model.safetensors").rename(folder / name)
    (folder / name).write_bytes(pickles(canary)["torch.save"])

    with pytest.raises(BadModel, match=r"only as pickle .*safetensors"):
        check_folder(folder)

    assert not canary.exists()


def test_a_component_with_only_pickled_weights_is_refused_though_others_are_safe(tmp_path: Path) -> None:
    folder = stable_diffusion_folder(tmp_path / "model")
    (folder / "unet/diffusion_pytorch_model.safetensors").rename(folder / "unet/diffusion_pytorch_model.bin")

    with pytest.raises(BadModel, match="only as pickle"):
        check_folder(folder)


def test_a_pickle_beside_safetensors_does_no_harm(tmp_path: Path) -> None:
    folder = chat_folder(tmp_path / "model")
    (folder / "pytorch_model.bin").write_bytes(b"never opened")

    check_folder(folder)

    assert weight_files(folder) == [folder / "model.safetensors"]


# Safetensors headers


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
def test_a_safetensors_header_that_lies_is_refused(tmp_path: Path, case: str) -> None:
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


# GGUF headers


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
    assert header.shapes == {"w": (8, 4), "q": (32,)}


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
    "alignment of zero": gguf_bytes(entries={"general.alignment": struct.pack("<II", 4, 0)}),
    "alignment of 2^31": gguf_bytes(entries={"general.alignment": struct.pack("<II", 4, 1 << 31)}),
    "not GGUF": b"GGML" + bytes(100),
}


@pytest.mark.parametrize("case", BAD_GGUF)
def test_a_gguf_header_that_lies_is_refused(tmp_path: Path, case: str) -> None:
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
    assert path.stat().st_size >= 200  # a whole header and the tensor behind it


# Sizes


def test_weights_are_counted_at_the_width_they_are_served_in_and_integers_stay(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(safetensors_bytes({"a": ("F16", [10], 20), "ids": ("I64", [3], 24)}))

    assert weight_bytes([tmp_path], 4) == 40 + 24
    assert weight_bytes([tmp_path], 2) == 20 + 24


def test_shards_are_read_by_their_index(tmp_path: Path) -> None:
    for part in "12":
        (tmp_path / f"model-{part}.safetensors").write_bytes(ONE_F16)
    (tmp_path / "consolidated.safetensors").write_bytes(ONE_F16)  # the same weights again, as some repositories do
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors", "c": "model-1.safetensors"}}
    write_json(tmp_path / "model.safetensors.index.json", index)

    assert weight_bytes([tmp_path], 2) == 2 * 16


@pytest.mark.parametrize("shard", ["../secret.safetensors", "/etc/passwd", "a\\b.safetensors", "model.bin"])
def test_an_index_may_not_point_outside_its_folder(tmp_path: Path, shard: str) -> None:
    write_json(tmp_path / "model.safetensors.index.json", {"weight_map": {"a": shard}})

    with pytest.raises(BadModel, match="outside its folder"):
        weight_files(tmp_path)


def test_a_variant_is_named_only_where_there_is_nothing_else(tmp_path: Path) -> None:
    folder = stable_diffusion_folder(tmp_path / "model")
    parts = [folder / "unet", folder / "vae"]
    assert variant(parts) is None

    plain = folder / "unet/diffusion_pytorch_model.safetensors"
    plain.rename(plain.with_name("diffusion_pytorch_model.fp16.safetensors"))

    assert variant(parts) == "fp16"
    check_folder(folder)


# Configs


def hostile_index(**index: object) -> dict[str, object]:
    return {"_class_name": "StableDiffusionPipeline", **index}


@pytest.mark.parametrize(
    "index",
    [
        hostile_index(unet=["os", "system"]),
        hostile_index(unet=["subprocess", "Popen"]),
        hostile_index(unet=["diffusers_evil", "UNet"]),
        hostile_index(unet=["diffusers.pipelines", "X"]),
        hostile_index(unet=["diffusers", "x.y"]),
        hostile_index(**{"../unet": ["diffusers", "UNet2DConditionModel"]}),
        hostile_index(unet=["diffusers", 7]),
        hostile_index(custom_pipeline="somebody/pipeline"),
        hostile_index(trust_remote_code=True),
        {"_class_name": ["pipeline", "EvilPipeline"]},
        {"_class_name": None},
        [1, 2],
    ],
)
def test_a_model_index_that_wants_code_is_refused(tmp_path: Path, index: object) -> None:
    folder = stable_diffusion_folder(tmp_path / "model")
    write_json(folder / "model_index.json", index)

    with pytest.raises(BadModel):
        check_folder(folder)


def test_the_library_names_of_real_checkpoints_pass(tmp_path: Path) -> None:
    folder = stable_diffusion_folder(
        tmp_path / "model",
        safety_checker=["stable_diffusion", "StableDiffusionSafetyChecker"],
        text_encoder=["transformers", "CLIPTextModel"],
        image_encoder=[None, None],
        requires_safety_checker=True,
    )

    check_folder(folder)


def test_code_beside_a_component_is_refused(tmp_path: Path) -> None:
    folder = stable_diffusion_folder(tmp_path / "model")
    (folder / "unet/diffusers.py").write_text("raise SystemExit")

    with pytest.raises(BadModel, match="code of its own"):
        check_folder(folder)


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "brand_new", "auto_map": {"AutoModelForCausalLM": "modeling.Evil"}},
        {"trust_remote_code": True},
        {"text_config": {"_attn_implementation_internal": "somebody/kernels"}},
        {"_attn_implementation": {"": "somebody/kernels"}},
    ],
)
def test_a_config_that_wants_code_is_refused(tmp_path: Path, config: dict[str, object]) -> None:
    folder = chat_folder(tmp_path / "model", **config)

    with pytest.raises(BadModel):
        check_folder(folder)


def test_an_auto_map_is_harmless_where_transformers_has_the_model_itself(tmp_path: Path) -> None:
    folder = chat_folder(tmp_path / "model", auto_map={"AutoModelForCausalLM": "modeling_llama.LlamaForCausalLM"})

    check_folder(folder)


def test_a_config_nested_without_end_is_refused(tmp_path: Path) -> None:
    folder = chat_folder(tmp_path / "model")
    (folder / "config.json").write_text('{"a":' * 50_000)

    with pytest.raises(BadModel, match="not valid JSON"):
        check_folder(folder)
