"""Computes the bytes of weights that a checkpoint has on the device, from the headers of its files. No torch.

That is not the size of its files: every float is cast to the serving dtype (fp8 too), a tied weight is held once, and
scales, EMA copies and parts that no module reads are not held at all. Buffers that are computed are left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from models.checkpoint.component_configs import Config
from models.checkpoint.model_source import declared_names
from models.checkpoint.quantized_bytes import quantized_bytes, quantized_components
from models.checkpoint.single_file import belongs_to, chat_context, has_all_parts, parts_in_file
from models.checkpoint.weight_scales import is_about_packing
from models.files.gguf_header import GgufTensor
from models.files.json_files import read_config
from models.files.model_index import components
from models.files.safetensors_header import FLOAT8_DTYPES, FLOAT_DTYPES, Tensor
from models.files.sentence_modules import has_modules, module_folders
from models.files.weight_files import find_weights, weight_files
from models.files.weight_header import Tensors, tensors_of

COMPUTED = re.compile(r"(^|\.)(position_ids|inv_freq|masked_bias|num_batches_tracked)$")
HEADLESS = "an embedding model"  # stands for a class: the heads of its checkpoint are not read
UNREAD = {  # class → tensors of a larger model that it has no place for
    HEADLESS: re.compile(r"^(\w+\.)?(pooler|cls|lm_head|head|decoder|classifier|vocab_\w+)\."),
    "T5EncoderModel": re.compile(r"^(decoder\.|lm_head\.)"),
    "UMT5EncoderModel": re.compile(r"^(decoder\.|lm_head\.)"),
    "CLIPTextModel": re.compile(r"^(vision_model\.|visual_projection\.|text_projection\.|logit_scale$)"),
    "CLIPTextModelWithProjection": re.compile(r"^(vision_model\.|visual_projection\.|logit_scale$)"),
}
# The library takes the second to last layer of SD 2's encoder, and does not read the last.
UNREAD_IN_FILE = re.compile(r"^cond_stage_model\.model\.(transformer\.resblocks\.23\.|text_projection$|logit_scale$)")
FLOAT32_IN_T5 = ("wo",)  # transformers keeps it in float32 where the rest is float16
UNPACKED = ("F32", "F16")  # types of GGUF tensors that are cast to the serving dtype


@dataclass(frozen=True, slots=True)
class ServedAs:
    """What decides the bytes besides the files."""

    float_bytes: int  # of the serving dtype
    is_float16: bool = False  # the libraries keep a few layers in float32 then
    quantization: str | None = None  # as `load.quantization`
    vae: Path | None = None  # replaces the checkpoint's own


def resident_bytes(path: Path, base: Path | None, served: ServedAs) -> int:
    """Returns the bytes of a checkpoint folder, or of a single file with what it takes from its base."""
    return sum(component_bytes(path, base, served).values())


def component_bytes(path: Path, base: Path | None, served: ServedAs) -> dict[str, int]:
    """Returns component → bytes. A language model is one component, "model"."""
    folder = base or path
    if not (folder / "model_index.json").is_file():
        return {"model": _language_model_bytes(path, served)}
    classes = {name: cls for name, (_, cls) in components(read_config(folder / "model_index.json")).items()}
    in_file = parts_in_file(path, classes) if base is not None else {}
    found: dict[str, int] = {}
    for name, cls in classes.items():
        if name == "vae" and served.vae is not None:
            found[name] = _replacement_bytes(cls, served.vae, served)
        elif name in in_file:
            tensors = {key: t for key, t in tensors_of(path).items() if belongs_to(key, in_file[name])}
            found[name] = _bytes(name, cls, tensors, {}, served, prefix=in_file[name])
        elif not (base is not None and name == "safety_checker" and has_all_parts(path)):  # as diffusers leaves it out
            found[name] = folder_bytes(folder / name, name, cls, served)
    return found


def folder_bytes(folder: Path, name: str, cls: str, served: ServedAs) -> int:
    """Returns the bytes of one component's folder, 0 where it has no weights."""
    if not folder.is_dir() or find_weights(folder) is None:
        return 0
    tensors = {key: tensor for file in weight_files(folder) for key, tensor in tensors_of(file).items()}
    config = read_config(folder / "config.json") if (folder / "config.json").is_file() else {}
    return _bytes(name, cls, tensors, config, served)


def _replacement_bytes(cls: str, vae: Path, served: ServedAs) -> int:
    if vae.is_file():
        return _bytes("vae", cls, tensors_of(vae), {}, served, prefix="")
    return folder_bytes(vae, "vae", cls, served)


def _language_model_bytes(path: Path, served: ServedAs) -> int:
    if path.is_dir() and has_modules(path):
        in_float32 = ServedAs(float_bytes=4)  # the layers after the pooling
        parts = [folder_bytes(path / name, name, "", in_float32) for name in module_folders(path)]
        return folder_bytes(path, "model", HEADLESS, served) + sum(parts)
    if path.is_dir():
        return folder_bytes(path, "model", "", served)
    assert chat_context(path) is not None
    return sum(tensor.elements for tensor in tensors_of(path).values()) * served.float_bytes  # unpacked to floats


def _bytes(name: str, cls: str, tensors: Tensors, config: Config, served: ServedAs, prefix: str | None = None) -> int:
    """prefix: that of the tensors in a single file, None for a folder."""
    read = dict(_read_tensors(cls, tensors, config))
    kept = _kept_in_float32(cls, served, in_folder=prefix is None)
    quantization = served.quantization if name in quantized_components(served.quantization) else None
    as_stored = "quantization_config" in config  # fp8 that the library runs as it is
    total = 0
    for key, tensor in read.items():
        float_bytes = 4 if not kept.isdisjoint(key.split(".")) else served.float_bytes
        if isinstance(tensor, GgufTensor):
            packed = tensor.dtype not in UNPACKED and len(tensor.shape) == 2
            total += tensor.stored_bytes if packed else tensor.elements * float_bytes
        elif tensor.dtype not in FLOAT_DTYPES or (as_stored and tensor.dtype in FLOAT8_DTYPES):
            total += tensor.stored_bytes
        elif quantization is not None and float_bytes == served.float_bytes:
            total += quantized_bytes(quantization, cls, key, read, float_bytes, in_file=prefix is not None)
        else:
            total += tensor.elements * float_bytes
    return total


def _read_tensors(cls: str, tensors: Tensors, config: Config) -> Iterator[tuple[str, Tensor | GgufTensor]]:
    unread = UNREAD.get(cls)
    for name, tensor in tensors.items():
        if is_about_packing(name) or COMPUTED.search(name) or UNREAD_IN_FILE.search(name):
            continue
        if (unread is not None and unread.search(name)) or _is_tied(name, tensors, config):
            continue
        if name == "lm_head.weight" and cls.endswith("Model"):
            continue
        yield name, tensor


def _is_tied(name: str, tensors: Tensors, config: Config) -> bool:
    """Returns whether a file has a weight twice that the module holds once."""
    if name.endswith("encoder.embed_tokens.weight"):  # of T5, whose decoder would use it too
        return name.removesuffix("encoder.embed_tokens.weight") + "shared.weight" in tensors
    if not name.endswith("lm_head.weight") or not _ties(config):
        return False
    return any(other.endswith(("embed_tokens.weight", "wte.weight")) for other in tensors)


def _ties(config: Config) -> bool:
    text = config.get("text_config")
    inner = text.get("tie_word_embeddings") if isinstance(text, Mapping) else None
    return bool(config.get("tie_word_embeddings", inner))


def _kept_in_float32(cls: str, served: ServedAs, *, in_folder: bool) -> frozenset[str]:
    """Returns the parts of names that the library keeps in float32, whatever the serving dtype."""
    if served.is_float16 and cls in ("T5EncoderModel", "UMT5EncoderModel"):
        return frozenset(FLOAT32_IN_T5)
    return frozenset(declared_names(cls, "_keep_in_fp32_modules") if in_folder or served.is_float16 else ())
