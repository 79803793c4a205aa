"""Do the load-time knobs of a model fit its checkpoint, its device and what is installed? Asked before anything is loaded; no torch.

A knob that would do nothing, or only fail at load, is an error of the configuration that says why.
"""

from __future__ import annotations

import re
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from models.errors import BadModel
from models.files import read_safetensors_header
from models.pipeline_source import pipeline_source
from models.preflight import components, package_folder, read_config
from models.spec import ModelSpec

DENOISERS = ("transformer", "unet")
LIBRARY = {"bnb": "bitsandbytes", "torchao": "torchao", "quanto": "optimum.quanto"}
EXTRA = {"bitsandbytes": "bitsandbytes", "torchao": "torchao", "optimum.quanto": "quanto"}
ON_CUDA_ONLY = ("torchao-int4",)  # its kernels
ON_CUDA_IN_DIFFUSERS = ("bnb-8bit", "bnb-4bit")  # transformers takes them to a CPU, diffusers 0.42 does not
ATTENTIONS = {  # → what has to be installed for it
    "native": None, "_native_math": None, "_native_cudnn": None, "_native_efficient": None, "_native_flash": None,
    "flex": None, "flash": "flash_attn", "_flash_3": "flash_attn_interface", "sage": "sageattention",
    "xformers": "xformers", "flash_hub": "kernels", "_flash_3_hub": "kernels", "sage_hub": "kernels",
}  # fmt: skip
ATTENTIONS_OF_CPU = ("native", "_native_math")
CLIP_OF_XL = {"clip_l": "text_encoder", "clip_g": "text_encoder_2"}  # tensors of a textual inversion for SDXL


def check_knobs(spec: ModelSpec, *, on_cpu: bool) -> None:
    """`on_cpu`: where it will be loaded. Raises `BadModel` that names the knob."""
    load = spec.load
    if spec.type == "chat":
        for knob in ("offload", "vae", "base", "embeddings", "compile", "attention"):
            if getattr(load, knob):
                raise BadModel(f"load.{knob} is for image and video models")
    if load.quantization is not None:
        _check_quantization(spec, on_cpu)
    if load.attention is not None:
        _check_attention(load.attention, on_cpu)
    if load.base is not None and spec.path is not None and spec.path.is_dir():
        raise BadModel("load.base is for a single file; this checkpoint is a whole folder")
    if load.offload and on_cpu:
        raise BadModel("load.offload moves parts between main memory and a GPU; this model is set to the CPU")
    for file in load.embeddings:
        if not file.endswith(".safetensors"):
            raise BadModel("load.embeddings must be .safetensors files")
    if spec.path is not None and spec.type != "chat":
        _check_against_checkpoint(spec, spec.base_path or spec.path)


def _check_against_checkpoint(spec: ModelSpec, folder: Path) -> None:
    load = spec.load
    if not (load.vae or load.embeddings or load.compile or load.attention):
        return
    parts = components(read_config(folder / "model_index.json"))
    denoiser = next((name for name in DENOISERS if name in parts), None)
    if load.vae and "vae" not in parts:
        raise BadModel(f"load.vae: {spec.pipeline} has no VAE")
    if load.attention and denoiser != "transformer":
        raise BadModel(f"load.attention is for transformers; {spec.pipeline} has a U-Net, which keeps torch's own")
    if load.compile and (denoiser is None or not _names_repeated_blocks(parts[denoiser][1])):
        raise BadModel(f"load.compile: the denoiser of {spec.pipeline} names no repeated blocks")
    if load.embeddings:
        source = pipeline_source(spec.pipeline or "")
        if source is None or not source.takes_embeddings:
            raise BadModel(f"load.embeddings: {spec.pipeline} takes no textual inversions")
        for path in spec.embedding_paths:
            _check_embedding(path, folder, xl="XL" in str(spec.pipeline))


def _check_embedding(path: Path, folder: Path, *, xl: bool) -> None:
    tensors = read_safetensors_header(path)
    wanted = CLIP_OF_XL if xl else dict.fromkeys(tensors, "text_encoder")
    if set(tensors) != set(wanted) or not tensors or (not xl and len(tensors) > 1):
        ours = "two, clip_l and clip_g" if xl else "one"
        raise BadModel(f"load.embeddings: {path.name} has the tensors {', '.join(tensors)[:200]}; wanted is {ours}")
    for name, tensor in tensors.items():
        width = read_config(folder / wanted[name] / "config.json").get("hidden_size")
        if tensor.shape[-1] != width:
            raise BadModel(f"load.embeddings: {path.name} is {tensor.shape[-1]} wide, this model's tokens are {width}")


def _check_quantization(spec: ModelSpec, on_cpu: bool) -> None:
    kind = spec.load.quantization
    assert kind is not None
    if spec.path is not None and spec.path.suffix == ".gguf":
        raise BadModel("load.quantization: a GGUF is quantized already")
    if kind == "fp8-layerwise":
        if spec.type == "chat":
            raise BadModel("load.quantization: fp8-layerwise is for image and video models")
        return
    if spec.path is not None and spec.path.is_file():
        raise BadModel(f"load.quantization: {kind} is for folders; a single file takes fp8-layerwise")
    if on_cpu and (kind in ON_CUDA_ONLY or (kind in ON_CUDA_IN_DIFFUSERS and spec.type != "chat")):
        raise BadModel(f"load.quantization: {kind} needs a CUDA device")
    library = LIBRARY[kind.split("-")[0]]
    if not _installed(library):
        raise BadModel(
            f"load.quantization: {kind} needs {library}, which is not installed: pip install 'agentname[{EXTRA[library]}]'"
        )


def _check_attention(attention: str, on_cpu: bool) -> None:
    if attention not in ATTENTIONS:
        raise BadModel(f"load.attention must be one of {', '.join(ATTENTIONS)}")
    if on_cpu and attention not in ATTENTIONS_OF_CPU:
        raise BadModel(f"load.attention: {attention} needs a CUDA device")
    library = ATTENTIONS[attention]
    if library is not None and not _installed(library):
        raise BadModel(f"load.attention: {attention} needs {library}, which is not installed")


@lru_cache(maxsize=64)
def _names_repeated_blocks(class_name: str) -> bool:
    """Whether a model class of diffusers says which of its blocks repeat, in its own body."""
    head = re.compile(rf"^class {re.escape(class_name)}\(", re.MULTILINE)
    for path in sorted((package_folder("diffusers") / "models").rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        if match := head.search(text):
            body = text[match.end() :].split("\nclass ", 1)[0]
            return re.search(r"^    _repeated_blocks = \[\s*\S", body, re.MULTILINE) is not None
    return False


def _installed(library: str) -> bool:
    try:
        return find_spec(library) is not None
    except ModuleNotFoundError:  # of the package above it
        return False
