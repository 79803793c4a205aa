"""Checks a single file against its base before anything is loaded, and reads what it says of itself.

Any thread; no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from models.checkpoint.denoiser_input import DENOISERS, channels_in_file, check_fits_base
from models.checkpoint.model_source import single_file_classes
from models.checkpoint.noise_schedulers import scheduler_config
from models.checkpoint.prediction import said_by_file
from models.checkpoint.single_file import EMA_PREFIX, omitted_components, parts_in_file
from models.checkpoint.single_file_families import FAMILIES, Family, family_of
from models.checkpoint.weight_scales import weight_scales
from models.errors import BadModel, Incomplete
from models.files.gguf_header import GgufTensor
from models.files.json_files import read_config
from models.files.model_index import components
from models.files.weight_files import find_weights
from models.files.weight_header import tensors_of

# Types of GGUF tensors that diffusers unpacks: SUPPORTED_GGUF_QUANT_TYPES, and plain floats.
GGUF_TYPES = frozenset({
    "F32", "F16", "BF16", "Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0", "Q6_K", "Q5_K", "Q4_K", "Q3_K", "Q2_K", "IQ4_NL",
    "IQ4_XS",
})  # fmt: skip

SAYS_NOTHING = "SD 2"  # the family with files that predict noise, others that predict v, and marks in none


@dataclass(frozen=True, slots=True)
class SingleFile:
    scheduler: Mapping[str, object]  # settings of the noise scheduler that replace those of the base
    notes: tuple[str, ...]
    input_channels: int  # of its denoiser; 0: as its base


def read_single_file(path: Path, base: Path) -> SingleFile:
    """Raises `BadModel` with the reason when the file cannot be read with this base."""
    model_index = read_config(base / "model_index.json")
    classes = {name: cls for name, (_, cls) in components(model_index).items()}
    denoiser = next((name for name in DENOISERS if name in classes), None)
    if denoiser is None:
        raise BadModel(f"its base is a {str(model_index['_class_name'])[:80]}, whose parts no single file has")
    if classes[denoiser] not in single_file_classes():
        raise BadModel(f"the denoiser of its base is a {classes[denoiser][:80]}, which is read from a folder only")
    family = _check_family(path, classes[denoiser])
    _check_packing(path)
    in_file = parts_in_file(path, classes)
    config = read_config(base / denoiser / "config.json")
    check_fits_base(tensors_of(path), in_file[denoiser], denoiser, classes[denoiser], config)
    _check_lent_weights(path, base, [name for name in classes if name not in in_file])
    own_config = scheduler_config(base)
    said = said_by_file(path, classes.get("scheduler", ""), own_config)
    notes = list(said.notes)
    if family is not None and family.name == SAYS_NOTHING and not notes:
        notes.append(f"Sampled as {own_config.get('prediction_type', 'epsilon')}, as its base: the file does not say.")
    if in_file[denoiser] and any(name.startswith(EMA_PREFIX) for name in tensors_of(path)):
        notes.append(f"The EMA copies in the file ({EMA_PREFIX}…) are not used: the weights beside them are.")
    return SingleFile(said.settings, tuple(notes), channels_in_file(tensors_of(path), in_file[denoiser]))


def _check_family(path: Path, base_denoiser: str) -> Family | None:
    family = family_of(tensors_of(path))
    of_base = [other.name for other in FAMILIES if other.denoiser == base_denoiser]
    if family is not None and of_base and family.denoiser != base_denoiser:
        raise BadModel(f"is a file of {family.name}, its base is one of {', '.join(dict.fromkeys(of_base))}")
    return family


def _check_packing(path: Path) -> None:
    tensors = tensors_of(path)
    for name, tensor in tensors.items():
        if isinstance(tensor, GgufTensor) and tensor.dtype not in GGUF_TYPES:
            raise BadModel(
                f"its tensors are {tensor.dtype} ({name[:120]}), which diffusers does not unpack; "
                f"it unpacks {', '.join(sorted(GGUF_TYPES))}"
            )
    if path.suffix == ".safetensors":
        weight_scales(tensors)


def _check_lent_weights(path: Path, base: Path, names: list[str]) -> None:
    """Raises `Incomplete` for a part whose weights neither the file nor its base has."""
    optional = (*omitted_components(path, base), "safety_checker")
    missing = tuple(
        name
        for name in names
        if name not in optional and (base / name / "config.json").is_file() and find_weights(base / name) is None
    )
    if missing:
        raise Incomplete(f"neither the file nor its base has the weights of {', '.join(missing)}", missing=missing)
