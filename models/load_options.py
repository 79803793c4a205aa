"""Checks the load options of a model against its checkpoint, its device and the installed libraries.

Any thread; no torch.

It runs before anything is loaded. An option that would do nothing, or would only fail later, is an error with its
reason.
"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from models.chat_template import check_template
from models.checkpoint.chat_checkpoint import check_has_template
from models.checkpoint.denoiser_input import DENOISERS
from models.checkpoint.model_source import declared_names
from models.checkpoint.pipeline_source import pipeline_source
from models.checkpoint.quantized_bytes import CPU_ONLY, EIGHT_BIT
from models.checkpoint.replacement_vae import check_replacement_vae
from models.errors import BadModel
from models.fallback_templates import fallback_template
from models.files.json_files import read_config
from models.files.model_index import components
from models.files.safetensors_header import read_safetensors_header
from models.required_packages import how_to_install, is_installed
from models.spec import ModelSpec

LIBRARIES = {  # first word of a quantization → the module that it needs
    "bnb": "bitsandbytes",
    "torchao": "torchao",
    "quanto": "optimum.quanto",
}
ON_CUDA_ONLY = ("torchao-int4",)  # its kernels exist for CUDA alone
ON_CUDA_IN_DIFFUSERS = ("bnb-8bit", "bnb-4bit")  # transformers runs them on a CPU, diffusers 0.42 does not
ATTENTIONS = {  # attention backend of diffusers → the module that it needs
    "native": None, "_native_math": None, "_native_cudnn": None, "_native_efficient": None, "_native_flash": None,
    "flex": None, "flash": "flash_attn", "_flash_3": "flash_attn_interface", "sage": "sageattention",
    "xformers": "xformers", "flash_hub": "kernels", "_flash_3_hub": "kernels", "sage_hub": "kernels",
}  # fmt: skip
CPU_ATTENTIONS = ("native", "_native_math")
SDXL_EMBEDDINGS = {"clip_l": "text_encoder", "clip_g": "text_encoder_2"}  # tensors of a textual inversion for SDXL


def check_load_options(spec: ModelSpec, *, on_cpu: bool) -> None:
    """Raises `BadModel` that names the option at fault. `on_cpu`: the model will be loaded on the CPU."""
    load = spec.load
    if spec.adapter is not None:
        for field in fields(load):
            if getattr(load, field.name) != field.default:
                raise BadModel(f"load.{field.name} is not for a model that others borrow")
        return
    if spec.type == "chat":
        for option in ("offload", "vae", "base", "embeddings", "attention"):
            if getattr(load, option):
                raise BadModel(f"load.{option} is for image and video models")
        if load.compile and on_cpu:
            raise BadModel("load.compile of a chat model needs a CUDA device")
        if load.chat_template is not None and spec.path is not None:
            check_template(fallback_template(load.chat_template, spec.path))
        check_has_template(spec)
    elif load.chat_template is not None:
        raise BadModel("load.chat_template is for chat models")
    if spec.type == "embedding":
        for option in ("quantization", "offload", "vae", "base", "embeddings", "attention", "compile", "graphs"):
            if getattr(load, option):
                raise BadModel(f"load.{option} is not for embedding models")
    if load.graphs and on_cpu:
        raise BadModel("load.graphs needs a CUDA device")
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
    if spec.path is not None and spec.is_diffusion:
        _check_against_checkpoint(spec, spec.base_path or spec.path)


def _check_against_checkpoint(spec: ModelSpec, folder: Path) -> None:
    load = spec.load
    if not (load.vae or load.embeddings or load.compile or load.attention):
        return
    parts = components(read_config(folder / "model_index.json"))
    denoiser = next((name for name in DENOISERS if name in parts), None)
    if load.vae and "vae" not in parts:
        raise BadModel(f"load.vae: {spec.pipeline} has no VAE")
    if spec.vae_path is not None:
        check_replacement_vae(spec.vae_path, parts["vae"][1], read_config(folder / "vae" / "config.json"))
    if load.attention and denoiser != "transformer":
        raise BadModel(f"load.attention is for transformers; {spec.pipeline} has a U-Net, which keeps torch's own")
    if load.compile and (denoiser is None or not declared_names(parts[denoiser][1], "_repeated_blocks")):
        raise BadModel(f"load.compile: the denoiser of {spec.pipeline} declares no repeated blocks")
    if load.embeddings:
        source = pipeline_source(spec.pipeline or "")
        if source is None or not source.takes_embeddings:
            raise BadModel(f"load.embeddings: {spec.pipeline} takes no textual inversions")
        for path in spec.embedding_paths:
            _check_embedding(path, folder, xl="XL" in str(spec.pipeline))


def _check_embedding(path: Path, folder: Path, *, xl: bool) -> None:
    tensors = read_safetensors_header(path)
    expected = SDXL_EMBEDDINGS if xl else dict.fromkeys(tensors, "text_encoder")
    if set(tensors) != set(expected) or not tensors or (not xl and len(tensors) > 1):
        count = "two, clip_l and clip_g" if xl else "one"
        raise BadModel(f"load.embeddings: {path.name} has the tensors {', '.join(tensors)[:200]}; expected is {count}")
    for name, tensor in tensors.items():
        width = read_config(folder / expected[name] / "config.json").get("hidden_size")
        if tensor.shape[-1] != width:
            raise BadModel(f"load.embeddings: {path.name} is {tensor.shape[-1]} wide, this model's tokens are {width}")


def _check_quantization(spec: ModelSpec, on_cpu: bool) -> None:
    kind = spec.load.quantization
    assert kind is not None
    if spec.path is not None and spec.path.suffix == ".gguf":
        raise BadModel("load.quantization: a GGUF is quantized already")
    if kind == CPU_ONLY:
        if spec.type != "chat":
            raise BadModel("load.quantization: cpu-int8 is for language models; int8 runs pictures on a CPU")
        return
    if kind in EIGHT_BIT:
        if kind == "fp8" and on_cpu:
            raise BadModel("load.quantization: fp8 needs a GPU of compute capability 8.9 (Ada, Hopper) or newer")
        return
    if kind == "fp8-layerwise":
        if spec.type == "chat":
            raise BadModel("load.quantization: fp8-layerwise is for image and video models")
        return
    if spec.path is not None and spec.path.is_file():
        raise BadModel(f"load.quantization: {kind} is for folders; a single file takes fp8-layerwise")
    if on_cpu and (kind in ON_CUDA_ONLY or (kind in ON_CUDA_IN_DIFFUSERS and spec.type != "chat")):
        raise BadModel(f"load.quantization: {kind} needs a CUDA device")
    library = LIBRARIES[kind.split("-")[0]]
    if not is_installed(library):
        raise BadModel(f"load.quantization: {kind} needs {how_to_install([library])}")


def _check_attention(attention: str, on_cpu: bool) -> None:
    if attention not in ATTENTIONS:
        raise BadModel(f"load.attention must be one of {', '.join(ATTENTIONS)}")
    if on_cpu and attention not in CPU_ATTENTIONS:
        raise BadModel(f"load.attention: {attention} needs a CUDA device")
    library = ATTENTIONS[attention]
    if library is not None and not is_installed(library):
        raise BadModel(f"load.attention: {attention} needs {how_to_install([library])}")
