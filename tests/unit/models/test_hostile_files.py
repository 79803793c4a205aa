"""Checkpoints made to harm are refused quickly and with a reason, what they carry never runs, and others are served."""

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

from tests.support.catalogues import open_catalogue
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
    """Deletes the canary when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self._canary = canary

    def __reduce__(self) -> Any:
        return Path.unlink, (self._canary,)


def write_pickle(canary: Path, path: Path) -> None:
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
        write_pickle(canary, folder / f"model.{suffix}")

    return make


def config_with(**keys: Any) -> Callable[[Path, Path], object]:
    return lambda folder, canary: chat_folder(folder, **keys)


def template(text: str) -> Callable[[Path, Path], object]:
    def make(folder: Path, canary: Path) -> None:
        chat_folder(folder)
        write_json(folder / "tokenizer_config.json", {"chat_template": text})

    return make


def index_with_shard(shard: str) -> Callable[[Path, Path], object]:
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


def deeply_nested_config(folder: Path, canary: Path) -> None:
    (chat_folder(folder) / "config.json").write_text("[" * 100_000)


def single_file(suffix: str, content: bytes | None = None) -> Callable[[Path, Path], object]:
    def make(folder: Path, canary: Path) -> None:
        file = folder.with_name(f"{folder.name}.{suffix}")
        file.write_bytes(content) if content is not None else write_pickle(canary, file)

    return make


def header(entries: dict[str, Any]) -> bytes:
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text


ENDLESS_ARRAY = {"a": struct.pack("<IIQ", 9, 4, 1 << 40)}
CORPUS: dict[str, Callable[[Path, Path], object]] = {
    **{
        f"pickle as .{suffix}": pickled_weights(suffix)
        for suffix in ("safetensors", "ckpt", "pt", "bin", "pth", "pkl")
    },
    "pickle as one .safetensors": single_file("safetensors"),
    "pickle as one .gguf": single_file("gguf"),
    "auto_map": config_with(model_type="mine", auto_map={"AutoModelForCausalLM": "evil.Model"}),
    "trust_remote_code": config_with(trust_remote_code=True),
    "attention from the hub": config_with(_attn_implementation_internal="evil/kernel"),
    "custom pipeline": pipeline(custom_pipeline="evil"),
    "pipeline with a module of its own": pipeline(_class_name=["evil", "Pipeline"]),
    "library other than those of models": pipeline(unet=["os", "system"]),
    "component with a path for a name": pipeline(**{"../up": ["diffusers", "UNet2DConditionModel"]}),
    "code beside a component": code_beside_component,
    "shard above the folder": index_with_shard("../other.safetensors"),
    "shard with a full path": index_with_shard("/etc/passwd"),
    "shard with a backslash": index_with_shard("..\\other.safetensors"),
    "header of 2^63 bytes": weights(struct.pack("<Q", 1 << 63) + b"{}"),
    "tensor past the end": weights(header({"w": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}})),
    "overlapping tensors": weights(
        header({n: {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]} for n in ("a", "b")}) + bytes(4)
    ),
    "tensor named after a Python internal": weights(
        header({"a.__class__.b": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}) + b"0"
    ),
    "the same key twice": weights(struct.pack("<Q", 15) + b'{"a":{},"a":{}}'),
    "GGUF array of 2^40": single_file("gguf", gguf_bytes(entries=ENDLESS_ARRAY)),
    "GGUF tensor larger than its file": single_file("gguf", gguf_bytes(tensors=[gguf_tensor(shape=(1 << 30, 8))])),
    "GGUF of 2^60 tensors": single_file("gguf", gguf_bytes(n_tensors=1 << 60)),
    "GGUF whose template grows": single_file(
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
    "template that grows where text is marked for training": template(
        "{{ messages | tojson(ensure_ascii=False) }}{% generation %}{{ 'a' * 900000000 }}{% endgeneration %}"
    ),
    "template that writes too much": template("{% for a in range(99999) %}{{ 'word ' * 100 }}{% endfor %}"),
    "template larger than a megabyte": template("{# " + "x" * (2 << 20) + " #}"),
    "deeply nested config": deeply_nested_config,
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("case", CORPUS)
def test_a_hostile_checkpoint_is_refused_quickly_and_a_sound_one_next_to_it_is_served(
    tmp_path: Path, case: str
) -> None:
    canary = tmp_path / "canary"
    canary.write_text("alive")
    (tmp_path / "other.safetensors").write_bytes(ONE_F16)
    chat_folder(tmp_path / "models/good")
    CORPUS[case](tmp_path / "models/bad", canary)
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()

    catalogue = open_catalogue(tmp_path)

    assert time.monotonic() - began < MAX_S
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < MAX_GROWN_BYTES
    assert canary.read_text() == "alive"
    assert catalogue.names() == ["good"]
    assert all(len(refused.reason) > 10 and str(tmp_path) not in refused.reason for refused in catalogue.refused)


def test_templates_of_published_models_are_accepted(tmp_path: Path) -> None:
    text = (
        "{% for message in messages %}"
        "{% if loop.first and message.role != 'system' %}<|im_start|>system\nHi<|im_end|>\n{% endif %}"
        "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    template(text)(tmp_path / "models/good", tmp_path)
    template("{{ raise_exception('no system prompts') }}")(tmp_path / "models/strict", tmp_path)

    catalogue = open_catalogue(tmp_path)

    assert catalogue.names() == ["good", "strict"]


def test_a_pickle_as_vae_or_embedding_is_refused(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    canary.write_text("alive")
    stable_diffusion_folder(tmp_path / "models/a")
    stable_diffusion_folder(tmp_path / "models/b")
    write_pickle(canary, tmp_path / "evil.safetensors")
    (tmp_path / "models.toml").write_text(
        '[models.a]\nload.vae = "evil.safetensors"\n[models.b]\nload.embeddings = ["evil.safetensors"]\n'
    )

    catalogue = open_catalogue(tmp_path)

    assert catalogue.names() == []
    assert all("not a safetensors file" in refused.reason for refused in catalogue.refused)
    assert canary.read_text() == "alive"
