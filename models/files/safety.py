"""Decides whether a checkpoint may be opened: refuses one that would run code, before any library reads it. Any thread.

A config can name code: `auto_map`, a pipeline class in a module of the checkpoint, a library in model_index.json, a .py
file beside a component. The libraries refuse most of these most of the time; CVE-2026-4372 and GHSA-4prv-5hj7-c2xr are
cases that they missed. Pickled weights are refused by the content of the file, whatever its name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from models.errors import BadModel, Incomplete
from models.files.completeness import check_language_model_complete, check_pipeline_complete
from models.files.gguf_header import MAX_LAYERS, read_gguf_header
from models.files.ip_adapter_folder import IMAGE_ENCODER, ip_adapter_file
from models.files.json_files import read_config
from models.files.leftovers import files_in, is_unfinished
from models.files.model_index import components
from models.files.safetensors_header import read_safetensors_header
from models.files.sentence_modules import has_modules, module_folders
from models.files.weight_files import find_weights, weight_files
from models.fingerprint import fingerprint
from models.installed_libraries import transformers_models
from models.vision_language import is_chat_model

FORBIDDEN_KEYS = frozenset({"custom_pipeline", "trust_remote_code", "custom_code", "_custom_pipeline"})
ATTENTION_KEYS = frozenset({"_attn_implementation", "_attn_implementation_internal", "attn_implementation"})
ATTENTIONS = frozenset({"eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention", None})
ADAPTER_CONFIG = "adapter_config.json"
READ_CONFIGS = frozenset({  # the configs that diffusers and transformers open
    "config.json", "generation_config.json", "scheduler_config.json", "guider_config.json", "tokenizer_config.json",
    "preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json",
})  # fmt: skip
# Counts of layers, which `MAX_LAYERS` bounds: with a trillion of them a library would never get to the files.
LAYER_COUNT = re.compile(r"(^|_)(layers?|blocks|depth)(_per_block)?$")
MAX_COUNTS = {"num_train_timesteps": 1_000_000}  # a scheduler makes several arrays of that length; 1,000 is usual
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


def check_path(path: Path, *, weights: bool = True) -> None:
    """Raises `BadModel` unless `path` is a folder that passes `check_folder`, or a weight file with a sound header.

    A path that passed is not read again until one of its files changes, so that a swap of models does not pay for it.
    """
    if not path.exists():
        raise Incomplete(f"{path.name} is a link to a file that is not there", missing=(path.name,))
    _check_path(path, weights, fingerprint(path))


@lru_cache(maxsize=1024)
def _check_path(path: Path, weights: bool, _fingerprint: str) -> None:
    if path.is_dir():
        check_folder(path, weights=weights)
    elif is_unfinished(path):
        raise Incomplete(f"{path.name} is still being downloaded", missing=(f"the end of {path.name}",))
    elif path.suffix == ".gguf":
        read_gguf_header(path)
    else:
        read_safetensors_header(path)


def check_folder(folder: Path, *, weights: bool = True) -> None:
    """Raises `BadModel` unless the files that a library would read are only configs and sound safetensors.

    weights: False accepts configs alone, for a folder that lends them to a single file.
    """
    index = folder / "model_index.json"
    if not index.is_file():
        _check_part(folder)
        for name in module_folders(folder):
            _check_part(folder / name)
        if folder.is_dir() and ip_adapter_file(folder) is not None:
            _check_part(folder / IMAGE_ENCODER, is_component=True)
        elif weights:
            _check_model_folder(folder)
        return
    model_index = read_config(index)
    if "_class_name" not in model_index:
        raise BadModel("model_index.json names no pipeline class (_class_name)")
    if not isinstance(model_index["_class_name"], str):
        raise BadModel("model_index.json names a pipeline with code of its own")
    _check_keys(model_index, index, native=True)
    for name in components(model_index):
        if (folder / name).is_dir():
            _check_part(folder / name, is_component=True)
    if weights:
        check_pipeline_complete(folder, model_index)


def _check_model_folder(folder: Path) -> None:
    config = read_config(folder / "config.json") if (folder / "config.json").is_file() else None
    if config is None:
        raise BadModel("is no model: it has neither model_index.json (diffusers) nor config.json (transformers)")
    if is_chat_model(folder) or has_modules(folder):
        check_language_model_complete(folder)


def _check_part(part: Path, *, is_component: bool = False) -> None:
    if is_component and files_in(part, "*.py"):  # diffusers offers to run <component>/<library>.py
        raise BadModel(f"component '{part.name}' carries code of its own")
    if (part / ADAPTER_CONFIG).is_file():
        raise BadModel(f"{ADAPTER_CONFIG} makes it an adapter of another model, which transformers would open instead")
    configs = [path for path in files_in(part, "*.json") if "config" in path.name and path.is_file()]
    native = any(_is_native(read_config(path)) for path in configs if path.name == "config.json")
    for path in configs:
        _check_config(path, native=native)
    _refuse_pickled(part)
    try:
        files = weight_files(part)
    except Incomplete:
        return  # a completeness check names everything that is missing
    for path in files:
        read_safetensors_header(path)


def _check_config(path: Path, *, native: bool) -> None:
    try:
        config = read_config(path)
    except BadModel:
        if path.name in READ_CONFIGS:
            raise
        return  # a stray file that no library opens
    _check_keys(config, path, native=native)


def _check_keys(config: dict[str, object], path: Path, *, native: bool) -> None:
    for key, value in _all_pairs(config):
        if key in FORBIDDEN_KEYS and value not in (None, False):
            raise BadModel(f"{path.name} asks to run code of its own ({key})", detail=str(path))
        # Many checkpoints keep an auto_map from the time before transformers had their model: the native class runs.
        if key == "auto_map" and value and not native:
            raise BadModel(f"{path.name} asks to run code of its own (auto_map)", detail=str(path))
        if key in ATTENTION_KEYS and (isinstance(value, (dict, list)) or value not in ATTENTIONS):
            raise BadModel(f"{path.name} names an unknown attention implementation", detail=str(path))
        limit = MAX_LAYERS if LAYER_COUNT.search(key) else MAX_COUNTS.get(key)
        if limit is not None and any(number > limit for number in _numbers(value)):
            raise BadModel(f"{path.name}: {key} is more than {limit}", detail=str(path))


def _numbers(value: object) -> list[int | float]:
    values = value if isinstance(value, list) else [value]
    return [number for number in values if isinstance(number, int | float)]


def _all_pairs(value: object) -> Iterator[tuple[str, object]]:
    """Yields the key-value pairs of nested objects and lists."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key, inner
            yield from _all_pairs(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _all_pairs(inner)


def _is_native(config: dict[str, object]) -> bool:
    model_type = config.get("model_type")
    return isinstance(model_type, str) and model_type.replace("-", "_") in transformers_models()


def _refuse_pickled(part: Path) -> None:
    """Raises `BadModel` for a folder that has only pickles.

    Pickles beside safetensors are harmless: nothing opens them.
    """
    pickled = next((path for pattern in PICKLED for path in files_in(part, pattern)), None)
    if pickled is not None and find_weights(part) is None:
        raise BadModel(f"has weights only as pickle ({pickled.name}); convert them to safetensors", detail=str(part))
