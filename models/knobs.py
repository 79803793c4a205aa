"""Do the load-time knobs of a model fit its checkpoint and what is installed? Asked before anything is loaded; no torch.

A knob that would do nothing, or only fail at load, is an error of the configuration that says why.
"""

from __future__ import annotations

from importlib.util import find_spec

from models.errors import BadModel
from models.spec import ModelSpec

LIBRARY = {"bnb": "bitsandbytes", "torchao": "torchao", "quanto": "optimum.quanto"}
EXTRA = {"bitsandbytes": "bitsandbytes", "torchao": "torchao", "optimum.quanto": "quanto"}
ATTENTIONS = (
    "native", "flash", "flash_hub", "_flash_3", "_flash_3_hub", "sage", "sage_hub", "flex", "xformers",
    "_native_cudnn", "_native_efficient", "_native_flash", "_native_math",
)  # fmt: skip


def check_knobs(spec: ModelSpec) -> None:
    """Raises `BadModel` that names the knob."""
    load = spec.load
    if load.quantization is not None:
        _check_quantization(spec)
    if spec.type == "chat":
        for knob in ("offload", "vae", "base", "embeddings", "compile", "attention"):
            if getattr(load, knob):
                raise BadModel(f"load.{knob} is for image and video models")
    if load.attention is not None and load.attention not in ATTENTIONS:
        raise BadModel(f"load.attention must be one of {', '.join(ATTENTIONS)}")
    if load.base is not None and spec.path is not None and spec.path.is_dir():
        raise BadModel("load.base is for a single file; this checkpoint is a whole folder")
    if load.offload and spec.device == "cpu":
        raise BadModel("load.offload moves parts between main memory and a GPU; this model is set to the CPU")
    if load.embeddings and "StableDiffusion" not in (spec.pipeline or "StableDiffusion"):
        raise BadModel(f"load.embeddings: {spec.pipeline} takes no textual inversions")
    for file in load.embeddings:
        if not file.endswith(".safetensors"):
            raise BadModel("load.embeddings must be .safetensors files")


def _check_quantization(spec: ModelSpec) -> None:
    kind = spec.load.quantization
    assert kind is not None
    if spec.path is not None and spec.path.suffix == ".gguf":
        raise BadModel("load.quantization: a GGUF is quantized already")
    if kind == "fp8-layerwise":
        if spec.type == "chat":
            raise BadModel("load.quantization: fp8-layerwise is for image and video models")
        return
    library = LIBRARY[kind.split("-")[0]]
    if not _installed(library):
        raise BadModel(
            f"load.quantization: {kind} needs {library}, which is not installed: pip install 'agentname[{EXTRA[library]}]'"
        )


def _installed(library: str) -> bool:
    try:
        return find_spec(library) is not None
    except ModuleNotFoundError:  # of the package above it
        return False
