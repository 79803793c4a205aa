"""Writes checkpoint folders of a few bytes: complete configs and weights in the right format. No torch."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from models.pipeline_signature import pipeline_signature


def safetensors_bytes(tensors: Mapping[str, tuple[str, list[int], int]], **header_changes: Any) -> bytes:
    """Returns a safetensors file of zeros from name → (dtype, shape, bytes of data), one tensor after the other."""
    header: dict[str, Any] = {}
    end = 0
    for name, (dtype, shape, n_bytes) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + n_bytes]}
        end += n_bytes
    text = json.dumps(header | header_changes).encode()
    return struct.pack("<Q", len(text)) + text + bytes(end)


ONE_F16 = safetensors_bytes({"weight": ("F16", [4, 2], 16)})


def write_json(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


CHAT_TEMPLATE = "{% for m in messages %}{{ m.role + ': ' + m.content + '\\n' }}{% endfor %}"


def chat_folder(folder: Path, *, template: str | None = CHAT_TEMPLATE, **config: Any) -> Path:
    llama = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "max_position_embeddings": 2048}
    write_json(folder / "config.json", llama | config)
    (folder / "model.safetensors").write_bytes(ONE_F16)
    write_json(folder / "tokenizer.json", {})
    if template is not None:
        (folder / "chat_template.jinja").write_text(template)
    return folder


def diffusion_folder(
    folder: Path,
    pipeline: str,
    *,
    denoiser: Mapping[str, Any],
    vae: Mapping[str, Any] | None,
    denoiser_name: str = "transformer",
    **index: Any,
) -> Path:
    """Writes a pipeline folder with a denoiser and a VAE; all else that the class takes is null.

    The classes of its components do not exist, so only its configs can be read.
    """
    listed = {denoiser_name: ["diffusers", "AModel"], "scheduler": ["diffusers", "AScheduler"]}
    if vae is not None:
        listed["vae"] = ["diffusers", "AVae"]
        write_json(folder / "vae" / "config.json", vae)
        (folder / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(ONE_F16)
    signature = pipeline_signature(pipeline)
    nulls = {} if signature is None else {name: [None, None] for name in signature.required}
    write_json(folder / "model_index.json", {"_class_name": pipeline, **nulls, **listed, **index})
    write_json(folder / denoiser_name / "config.json", denoiser)
    (folder / denoiser_name / "diffusion_pytorch_model.safetensors").write_bytes(ONE_F16)
    write_json(folder / "scheduler" / "scheduler_config.json", {})
    return folder


def stable_diffusion_folder(folder: Path, **index: Any) -> Path:
    return diffusion_folder(
        folder,
        "StableDiffusionPipeline",
        denoiser={"sample_size": 64, "in_channels": 4},
        denoiser_name="unet",
        vae={"block_out_channels": [128, 256, 512, 512], "latent_channels": 4},
        **index,
    )


def gguf_bytes(
    *,
    entries: Mapping[str, bytes] | None = None,
    tensors: list[bytes] | None = None,
    data: int = 256,
    n_entries: int | None = None,
    n_tensors: int | None = None,
    version: int = 3,
) -> bytes:
    """Returns a GGUF file of raw metadata values (type and value) and raw tensor descriptions."""
    entries, tensors = entries or {}, tensors or []
    head = b"GGUF" + struct.pack("<I", version)
    head += struct.pack("<Q", len(tensors) if n_tensors is None else n_tensors)
    head += struct.pack("<Q", len(entries) if n_entries is None else n_entries)
    body = b"".join(gguf_string(key) + value for key, value in entries.items()) + b"".join(tensors)
    unpadded = head + body
    return unpadded + bytes(-len(unpadded) % 32) + bytes(data)


def gguf_string(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


def gguf_tensor(name: str = "t", shape: tuple[int, ...] = (8, 4), kind: int = 0, offset: int = 0) -> bytes:
    return (
        gguf_string(name)
        + struct.pack("<I", len(shape))
        + struct.pack(f"<{len(shape)}Q", *shape)
        + struct.pack("<IQ", kind, offset)
    )
