"""Decides from configs and headers whether a VAE, an IP-Adapter or a textual inversion belongs to a model.

Any thread; no torch. Each function returns why it does not, as the end of "NAME …", and None when it does.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from models.checkpoint.denoiser_input import DENOISERS
from models.checkpoint.pipeline_source import pipeline_source
from models.checkpoint.replacement_vae import check_replacement_vae
from models.errors import BadModel, ModelsError
from models.files.ip_adapter_folder import IMAGE_ENCODER, image_encoder_folder, ip_adapter_file
from models.files.json_files import read_config
from models.files.model_index import components
from models.files.weight_header import tensors_of
from models.load_options import SDXL_EMBEDDINGS
from models.spec import ModelSpec

Config = Mapping[str, object]

IP_ARGUMENT = "ip_adapter_image"  # of the pipelines that take an IP-Adapter
IP_KEYS = ("to_k_ip.weight", "ip_adapter_double_stream_k_proj.weight")  # layers that read the picture like a prompt
TEXT_WIDTHS = ("cross_attention_dim", "joint_attention_dim")  # of a denoiser: how wide the prompts are that it reads
OWN_WIDTH = ("SD3Transformer2DModel",)  # whose IP-Adapters bring pictures to the denoiser's own width


def vae_misfit(adapter: ModelSpec, base: ModelSpec) -> str | None:
    folder = _configs(base)
    if adapter.path is None or folder is None:
        return None  # not known before the files are here
    config = folder / "vae" / "config.json"
    if not config.is_file():
        return f"cannot be used: {base.name} has no VAE"
    try:
        _, cls = components(read_config(folder / "model_index.json"))["vae"]
        check_replacement_vae(adapter.path, cls, read_config(config), what=adapter.name)
    except BadModel as error:
        return error.message.removeprefix(adapter.name).lstrip(": ")
    except (OSError, KeyError):
        return "cannot be read"
    return None


def ip_adapter_misfit(adapter: ModelSpec, base: ModelSpec) -> str | None:
    if not any(IP_ARGUMENT in arguments for arguments in (base.arguments, *(task.arguments for task in base.tasks))):
        return f"cannot be used: {base.name} takes no IP-Adapter"
    folder, path = _configs(base), adapter.path
    file = ip_adapter_file(path) if path is not None else None
    if path is None or file is None or folder is None:
        return None
    if image_encoder_folder(path) is None and not (folder / IMAGE_ENCODER).is_dir():
        return f"has no folder {IMAGE_ENCODER} beside it, and {base.name} has none either"
    try:
        name, its = _denoiser(folder)
        widths = {tensor.shape[1] for key, tensor in tensors_of(file).items() if key.endswith(IP_KEYS)}
    except (OSError, ModelsError):
        return "cannot be read"
    own = next((its[key] for key in TEXT_WIDTHS if its.get(key) is not None), None)
    if name in OWN_WIDTH or not isinstance(own, int) or widths == {own}:
        return None
    return f"was made for another model: it reads prompts of the width {_listed(widths)}, {base.name} of {own}"


def inversion_misfit(adapter: ModelSpec, base: ModelSpec) -> str | None:
    source = pipeline_source(base.pipeline or "")
    if source is None or not source.takes_embeddings:
        return f"cannot be used: {base.name} takes no textual inversions"
    folder = _configs(base)
    if adapter.path is None or folder is None:
        return None
    try:
        tensors = tensors_of(adapter.path)
        for key, tensor in tensors.items():
            encoder = SDXL_EMBEDDINGS[key] if tensors.keys() == SDXL_EMBEDDINGS.keys() else "text_encoder"
            config = folder / encoder / "config.json"
            width = read_config(config).get("hidden_size") if config.is_file() else None
            if width != tensor.shape[-1]:
                has = f"{base.name} {width}" if width is not None else f"{base.name} has no {encoder}"
                return f"was made for another model: its vectors have {tensor.shape[-1]} numbers, {has}"
    except (OSError, ModelsError):
        return "cannot be read"
    return None


def _configs(base: ModelSpec) -> Path | None:
    return base.base_path or base.path


def _denoiser(folder: Path) -> tuple[str, Config]:
    """The class and the config of the model's denoiser."""
    for name in DENOISERS:
        if (folder / name / "config.json").is_file():
            config = read_config(folder / name / "config.json")
            return str(config.get("_class_name")), config
    return "", {}


def _listed(numbers: set[int]) -> str:
    return ", ".join(map(str, sorted(numbers))) or "none"
