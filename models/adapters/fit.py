"""Decides from configs whether an adapter belongs to a model, before anything is loaded. Any thread; no torch.

A ControlNet or T2I-Adapter fits when one of the model's pipeline classes takes a module of its class, and the numbers
on which the two modules must agree are equal: the widths of what the one hands to the other. `part_fit` has the rules
of the other kinds.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from models.adapters.adapter_files import adapter_files
from models.adapters.part_fit import inversion_misfit, ip_adapter_misfit, vae_misfit
from models.checkpoint.denoiser_input import DENOISERS
from models.errors import ModelsError
from models.files.json_files import read_config
from models.pipeline_signature import pipeline_signature
from models.spec import ModelSpec
from pipelines.diffusion_interface import PipelineTask

Config = Mapping[str, object]

# What must be equal, by the component of the model that the adapter works with. Of transformers, only numbers that
# both configs have.
OF_UNET = ("cross_attention_dim", "block_out_channels", "layers_per_block", "addition_embed_type")
OF_TRANSFORMER = (
    "in_channels", "num_attention_heads", "attention_head_dim", "joint_attention_dim", "caption_projection_dim",
    "pooled_projection_dim", "caption_channels", "hidden_size", "cross_attention_dim", "cross_attention_dim_t5",
    "dim", "n_heads",
)  # fmt: skip


def takes_class(task: PipelineTask, cls: str) -> bool:
    """Whether a pipeline class takes a lent module of class `cls`."""
    return any(cls in classes for classes in task.lent.values())


def takes_several(task: PipelineTask) -> bool:
    """Whether a pipeline class takes several lent modules at once, by the annotation of its constructor."""
    signature = pipeline_signature(task.pipeline)
    names = [name for part in task.lent for name in (signature.classes.get(part, ()) if signature is not None else ())]
    return any(name in ("list", "List") or "Multi" in name for name in names)


def fits(adapter: ModelSpec, base: ModelSpec) -> bool:
    return misfit(adapter, base) is None


def misfit(adapter: ModelSpec, base: ModelSpec) -> str | None:
    """Returns why an adapter does not belong to a model, as the end of "NAME …"; None when it does.

    Files are read once for as long as their fingerprints stay: each listing of the models asks for all pairs.
    """
    return _misfit(_Pair(tuple(map(_identity, (adapter, base))), adapter, base))


@dataclass(frozen=True, slots=True)
class _Pair:
    identities: tuple[Hashable, ...]
    adapter: ModelSpec = field(compare=False)
    base: ModelSpec = field(compare=False)


def _identity(spec: ModelSpec) -> Hashable:
    return spec.name, spec.path, spec.fingerprint, spec.adapter_class, spec.pipeline, spec.base_path, spec.tasks == ()


@lru_cache(maxsize=4096)
def _misfit(pair: _Pair) -> str | None:
    adapter, base = pair.adapter, pair.base
    match adapter.adapter:
        case "ip_adapter":
            return ip_adapter_misfit(adapter, base)
        case "vae":
            return vae_misfit(adapter, base)
        case "textual_inversion":
            return inversion_misfit(adapter, base)
        case "upscaler":
            return None if base.is_diffusion and base.adapter is None else f"enlarges no results of {base.name}"
        case _:
            return _module_misfit(adapter, base)


def _module_misfit(adapter: ModelSpec, base: ModelSpec) -> str | None:
    """Of a ControlNet or T2I-Adapter."""
    cls = adapter.adapter_class or ""
    if not any(takes_class(task, cls) for task in base.tasks):
        return f"is a {cls}, which no pipeline of {base.name} takes"
    folder = base.base_path or base.path
    if adapter.path is None or folder is None:
        return None  # not known before the files are here
    own = _adapter_config(adapter.path, adapter.fingerprint)
    denoiser, its = _denoiser_config(folder, base.fingerprint)
    differing = next(_differences(cls, own, denoiser, its), None)
    return None if differing is None else f"was made for models with another {differing} than {base.name}"


def _differences(cls: str, own: Config, denoiser: str, its: Config) -> Iterator[str]:
    if cls == "T2IAdapter":
        yield from _t2i_differences(own, its)
    elif denoiser == "unet":
        yield from (key for key in OF_UNET if _plain(own.get(key)) != _plain(its.get(key)))
    else:
        shared = (key for key in OF_TRANSFORMER if own.get(key) is not None and its.get(key) is not None)
        yield from (key for key in shared if _plain(own[key]) != _plain(its[key]))


def _t2i_differences(own: Config, its: Config) -> Iterator[str]:
    """The adapter gives the U-Net one map for each of its blocks; that for SDXL has a class of its own inside."""
    is_for_xl = str(own.get("adapter_type", "full_adapter")).endswith("_xl")
    if is_for_xl != (its.get("addition_embed_type") == "text_time"):
        yield "family (SDXL)"
    channels, blocks = _list(own.get("channels")), _list(its.get("block_out_channels"))
    if channels[: len(blocks)] != blocks:
        yield "block_out_channels"


def _plain(value: object) -> object:
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value


def _list(value: object) -> list[object]:
    return list(value) if isinstance(value, list | tuple) else []


@lru_cache(maxsize=256)
def _adapter_config(path: Path, _fingerprint: str) -> Config:
    try:
        found = adapter_files(path)
    except (ModelsError, OSError):
        found = None
    return {} if found is None else found.config


@lru_cache(maxsize=256)
def _denoiser_config(folder: Path, _fingerprint: str) -> tuple[str, Config]:
    for name in DENOISERS:
        if (folder / name / "config.json").is_file():
            return name, read_config(folder / name / "config.json")
    return "", {}
