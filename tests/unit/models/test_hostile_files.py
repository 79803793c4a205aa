"""Checkpoints made to harm are refused with the reason, quickly, and what they carry never runs; the catalogue goes on."""

from __future__ import annotations

import json
import pickle
import resource
import struct
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from models.catalogue import Catalogue
from tests.support.checkpoints import (
    ONE_F16,
    chat_folder,
    gguf_bytes,
    gguf_string,
    gguf_tensor,
    stable_diffusion_folder,
    write_json,
)

MAX_S = 10.0
MAX_GROWN_BYTES = 2 << 30


class Payload:
    """What unpickling it does: the canary is gone."""

    def __init__(self, canary: Path) -> None:
        self._canary = canary

    def __reduce__(self) -> Any:
        return Path.unlink, (self._canary,)


def pickled(canary: Path, path: Path) -> None:
    content = pickle.dumps(Payload(canary))
    if path.suffix in (".zip", ".pt"):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", content)
    else:
        path.write_bytes(content)


def pickled_weights(suffix: str) -> Callable[[Path, Path], object]:
    def make(folder: Path, canary: Path) -> None:
        chat_folder(folder)
        (folder / "model.safetensors").unlink()
        pickled(canary, folder / f"model.{suffix}")

    return make


def config_key(**said: Any) -> Callable[[Path, Path], object]:
    return lambda folder, canary: chat_folder(folder, **said)


def template(text: str) -> Callable[[Path, Path], object]:
    def make(folder: Path, canary: Path) -> None:
        chat_folder(folder)
        write_json(folder / "tokenizer_config.json", {"chat_template": text})

    return make


def index_of_shards(shard: str) -> Callable[[Path, Path], object]:
    def make(folder: Path, canary: Path) -> None:
        chat_folder(folder)
        (folder / "model.safetensors").rename(folder / "other.safetensors")
        write_json(folder / "model.safetensors.index.json", {"weight_map": {"weight": shard}})

    return make


def weights(content: bytes) -> Callable[[Path, Path], object]:
    def make(folder: Path, canary: Path) -> None:
        (chat_folder(folder) / "model.safetensors").write_bytes(content)

    return make


def pipeline(**index: Any) -> Callable[[Path, Path], object]:
    return lambda folder, canary: stable_diffusion_folder(folder, **index)


def code_beside_component(folder: Path, canary: Path) -> None:
    stable_diffusion_folder(folder)
    (folder / "unet/diffusers.py").write_text(f"import os; os.unlink({str(canary)!r})")


def nested_without_end(folder: Path, canary: Path) -> None:
    (chat_folder(folder) / "config.json").write_text("[" * 100_000)


def single_file(suffix: str, content: bytes | None = None) -> Callable[[Path, Path], object]:
    def make(folder: Path, canary: Path) -> None:
        file = folder.with_name(f"{folder.name}.{suffix}")
        file.write_bytes(content) if content is not None else pickled(canary, file)

    return make


def header(entries: dict[str, Any]) -> bytes:
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text


ENDLESS_ARRAY = {"a": struct.pack("<IIQ", 9, 4, 1 << 40)}
CORPUS: dict[str, Callable[[Path, Path], object]] = {
    **{f"pickle as .{suffix}": pickled_weights(suffix) for suffix in ("safetensors", "ckpt", "pt", "bin", "pth", "pkl")},
    "pickle as one .safetensors": single_file("safetensors"),
    "pickle as one .gguf": single_file("gguf"),
    "auto_map": config_key(model_type="mine", auto_map={"AutoModelForCausalLM": "evil.Model"}),
    "trust_remote_code": config_key(trust_remote_code=True),
    "attention from the hub": config_key(_attn_implementation_internal="evil/kernel"),
    "custom pipeline": pipeline(custom_pipeline="evil"),
    "pipeline with a module of its own": pipeline(_class_name=["evil", "Pipeline"]),
    "library that is no library of models": pipeline(unet=["os", "system"]),
    "component with a path for a name": pipeline(**{"../up": ["diffusers", "UNet2DConditionModel"]}),
    "code beside a component": code_beside_component,
    "shard above the folder": index_of_shards("../other.safetensors"),
    "shard by full path": index_of_shards("/etc/passwd"),
    "shard by another separator": index_of_shards("..\\other.safetensors"),
    "header of 2^63 bytes": weights(struct.pack("<Q", 1 << 63) + b"{}"),
    "tensor past the end": weights(header({"w": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}})),
    "tensors over each other": weights(
        header({n: {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]} for n in ("a", "b")}) + bytes(4)
    ),
    "tensor named after an internal": weights(
        header({"a.__class__.b": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}) + b"0"
    ),
    "the same key twice": weights(struct.pack("<Q", 15) + b'{"a":{},"a":{}}'),
    "GGUF array of 2^40": single_file("gguf", gguf_bytes(entries=ENDLESS_ARRAY)),
    "GGUF tensor larger than its file": single_file("gguf", gguf_bytes(tensors=[gguf_tensor(shape=(1 << 30, 8))])),
    "GGUF of 2^60 tensors": single_file("gguf", gguf_bytes(n_tensors=1 << 60)),
    "GGUF with a bomb of a template": single_file(
        "gguf",
        gguf_bytes(
            entries={
                "tokenizer.ggml.model": struct.pack("<I", 8) + gguf_string("gpt2"),
                "tokenizer.chat_template": struct.pack("<I", 8) + gguf_string("{{ 'a' * 900000000 }}"),
            },
            tensors=[gguf_tensor()],
        ),
    ),
    "template that loops": template("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"),
    "template that grows": template("{{ 'a' * 900000000 }}"),
    "template that writes a book": template("{% for a in range(99999) %}{{ 'word ' * 100 }}{% endfor %}"),
    "template of a megabyte and more": template("{# " + "x" * (2 << 20) + " #}"),
    "config nested without end": nested_without_end,
}  # fmt: skip


@pytest.mark.parametrize("case", CORPUS)
def test_it_is_refused_with_the_reason_quickly_and_its_neighbour_is_served(tmp_path: Path, case: str) -> None:
    canary = tmp_path / "canary"
    canary.write_text("alive")
    (tmp_path / "other.safetensors").write_bytes(ONE_F16)
    chat_folder(tmp_path / "models/good")
    CORPUS[case](tmp_path / "models/bad", canary)
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()

    catalogue = Catalogue.open(data_dir=tmp_path, cache_dir=tmp_path / "cache", builtin=tmp_path / "none")

    assert time.monotonic() - began < MAX_S
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < MAX_GROWN_BYTES
    assert canary.read_text() == "alive"
    assert catalogue.names() == ["good"]
    assert all(len(refused.reason) > 10 and str(tmp_path) not in refused.reason for refused in catalogue.refused)


def test_templates_as_they_are_in_use_pass(tmp_path: Path) -> None:
    text = (
        "{% for message in messages %}{% if loop.first and message.role != 'system' %}<|im_start|>system\nHi<|im_end|>\n{% endif %}"
        "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    template(text)(tmp_path / "models/good", tmp_path)
    template("{{ raise_exception('no system prompts') }}")(tmp_path / "models/strict", tmp_path)

    catalogue = Catalogue.open(data_dir=tmp_path, cache_dir=tmp_path / "cache", builtin=tmp_path / "none")

    assert catalogue.names() == ["good", "strict"]


def test_a_pickle_lent_as_vae_or_embedding_is_refused(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    canary.write_text("alive")
    stable_diffusion_folder(tmp_path / "models/a")
    stable_diffusion_folder(tmp_path / "models/b")
    pickled(canary, tmp_path / "evil.safetensors")
    (tmp_path / "models.toml").write_text(
        '[models.a]\nload.vae = "evil.safetensors"\n[models.b]\nload.embeddings = ["evil.safetensors"]\n'
    )

    catalogue = Catalogue.open(data_dir=tmp_path, cache_dir=tmp_path / "cache", builtin=tmp_path / "none")

    assert catalogue.names() == []
    assert all("not a safetensors file" in refused.reason for refused in catalogue.refused)
    assert canary.read_text() == "alive"
