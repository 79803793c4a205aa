"""Decides which files of a repository are read. Any thread; no network of its own.

One rule chooses what a pull downloads and judges whether a snapshot in the hub's cache is complete: `files_to_read`,
which asks the code that reads checkpoint folders. For a repository that is still on the hub, `lay_out` makes such a
folder: its configs, and an empty file for each other name. So everything that a loader would not open is left out:
pickles, other frameworks, other variants, and the same weights once more as one file beside a folder layout.

Weights in full precision come first; a variant ("fp16") is read where a component has nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from models.errors import BadModel, Incomplete
from models.files.chat_templates import MORE_FILES as MORE_TEMPLATES
from models.files.completeness import check_language_model_complete, check_pipeline_complete
from models.files.json_files import read_config
from models.files.leftovers import files_in, is_leftover
from models.files.model_index import components
from models.files.sentence_modules import MODULES, has_modules, module_folders
from models.files.weight_files import find_weights
from models.sources.disk_space import size

CONFIG_SUFFIXES = (".json", ".txt", ".model", ".jinja", ".tiktoken", ".spm")
PROSE = re.compile(
    r"(readme|licen[sc]e|notice|copying|citation|changelog|requirements|use_policy|trainer_state)\b", re.IGNORECASE
)
WEIGHT_INDEX = re.compile(r".+\.index(\.\w+)?\.json")  # of safetensors and of pickles
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
SPLIT_GGUF = re.compile(r".+-\d{5}-of-\d{5}\.gguf")
SHARD = re.compile(r".+-\d{5}-of-\d{5}\.safetensors")
LORA_FILES = ("pytorch_lora_weights.safetensors", "adapter_model.safetensors")  # the names of diffusers and PEFT
MAX_CHOICES = 20  # files that an error lists


@dataclass(frozen=True, slots=True)
class Selection:
    """Files to read, as paths inside the repository."""

    configs: tuple[str, ...] = ()  # small files: configs, tokenizers, the indexes of the chosen shards
    weights: tuple[str, ...] = ()

    @property
    def files(self) -> tuple[str, ...]:
        return (*self.configs, *self.weights)


def files_to_read(folder: Path, *, without_weights: Collection[str] = ()) -> Selection | None:
    """Returns None for a folder that is neither a pipeline (model_index.json) nor a model (config.json).

    Raises `Incomplete` that names what is missing, `BadModel` for configs that cannot be read.

    without_weights: components of the pipeline whose weights may be missing.
    """
    if (folder / "model_index.json").is_file():
        return _pipeline(folder, without_weights)
    if (folder / "config.json").is_file() and (find_weights(folder) is not None or not _has_single_files(folder)):
        return _model(folder)
    return None


def _pipeline(folder: Path, without_weights: Collection[str]) -> Selection:
    model_index = read_config(folder / "model_index.json")
    parts = [folder / name for name in components(model_index)]
    for part in parts:
        _refuse_pickled(part)
    try:
        check_pipeline_complete(folder, model_index)
    except Incomplete as error:
        if not all(_is_about_weights_of(without_weights, entry) for entry in error.missing):
            raise
    weights = [name for part in parts if part.name not in without_weights for name in _weights(part)]
    configs = [f"{part.name}/{name}" for part in parts for name in _configs(part)]
    return _selection(folder, ["model_index.json", *configs], weights)


def _model(folder: Path) -> Selection:
    _refuse_pickled(folder)
    weights = [*_weights(folder)]
    modules = module_folders(folder)
    for name in modules:  # of an embedding model
        _refuse_pickled(folder / name)
        weights += _weights(folder / name)
    if component_class(folder) is None:
        check_language_model_complete(folder)
    elif not weights:
        raise Incomplete("has not all of its files: the weights", missing=("the weights",))
    templates = [path.relative_to(folder).as_posix() for path in files_in(folder, MORE_TEMPLATES)]
    of_modules = [f"{name}/{config}" for name in modules for config in _configs(folder / name)]
    return _selection(folder, [*_configs(folder), *templates, *of_modules], weights)


def _selection(folder: Path, configs: list[str], weights: Iterable[Path]) -> Selection:
    names = [path.relative_to(folder).as_posix() for path in weights]
    indexes = [name for name in names if is_weight_index(name)]
    return Selection((*configs, *indexes), tuple(name for name in names if name not in indexes))


def _weights(part: Path) -> Iterator[Path]:
    """Yields the weight files of a component, and the index that names them."""
    found = find_weights(part) if part.is_dir() else None
    if found is not None:
        if found.is_sharded:
            yield found.file
        yield from found.files()


def _configs(part: Path) -> list[str]:
    names = (path.name for path in files_in(part, "*") if path.is_file())
    return [
        name for name in names if name.endswith(CONFIG_SUFFIXES) and not is_weight_index(name) and not PROSE.match(name)
    ]


def is_weight_index(name: str) -> bool:
    return WEIGHT_INDEX.fullmatch(name) is not None


def component_class(folder: Path) -> str | None:
    """Returns the class of a folder that is one component of diffusers (a VAE …), None for anything else."""
    if (folder / "model_index.json").is_file() or not (folder / "config.json").is_file():
        return None
    class_name = read_config(folder / "config.json").get("_class_name")
    return class_name if isinstance(class_name, str) else None


def _is_about_weights_of(parts: Collection[str], missing: str) -> bool:
    name, _, what = missing.partition(": ")
    return name in parts and what != "config.json"


def _refuse_pickled(part: Path) -> None:
    pickle = next((path for path in files_in(part, "*") if path.name.endswith(PICKLES)), None)
    if pickle is not None and find_weights(part) is None:
        raise BadModel(f"has weights only as pickle ({pickle.name}); convert them to safetensors")


# A repository that is still on the hub


def lay_out(names: Iterable[str], folder: Path, fetch: Callable[[str], Path]) -> None:
    """Fills `folder` with what `files_to_read` needs: configs and indexes of shards, and empty files for the rest.

    fetch: downloads one file of the repository and returns its path.
    """
    for name in names:
        if name.count("/") <= 1 and not any(is_leftover(part) for part in name.split("/")):
            path = folder / name
            path.parent.mkdir(exist_ok=True)
            path.touch()

    def make_real(path: Path) -> None:
        file = fetch(path.relative_to(folder).as_posix())
        path.unlink()
        path.symlink_to(file.absolute())

    parts, index = [folder], folder / "model_index.json"
    if index.is_file():
        make_real(index)
        parts = [folder / name for name in components(read_config(index))]
    elif has_modules(folder):
        make_real(folder / MODULES)
        parts += [folder / name for name in module_folders(folder)]
    for part in parts:
        if (part / "config.json").is_file():
            make_real(part / "config.json")
        weights = find_weights(part) if part.is_dir() else None
        if weights is not None and weights.is_sharded:
            make_real(weights.file)


# Repositories of single files


def _has_single_files(folder: Path) -> bool:
    files = (*folder.glob("*.safetensors"), *folder.glob("*.gguf"), *folder.glob("*/*.gguf"))
    return any(not is_leftover(path.name) for path in files)


def single_file(repo: str, sizes: Mapping[str, int]) -> str:
    """Returns the one model file of a repository without a layout. Raises `BadModel` that lists what to choose from.

    sizes: path inside the repository → bytes.
    """
    files = [*_single_files(sizes)]
    whole = [name for name in files if not is_split(name)]
    if any(name in LORA_FILES for name in whole):
        raise BadModel(f"{repo} is a LoRA, not a model: put its .safetensors file into the folder of LoRAs")
    if len(whole) == 1:
        return whole[0]
    if whole:
        choices = ", ".join(f"{repo}:{name} ({size(sizes[name])})" for name in whole[:MAX_CHOICES])
        more = f" and {len(whole) - MAX_CHOICES} more" if len(whole) > MAX_CHOICES else ""
        raise BadModel(f"{repo} holds {len(whole)} models as single files; name one of them: {choices}{more}")
    if files:
        raise BadModel(f"{repo} has its models only as split GGUF files ({files[0]} …), which cannot be read")
    if pickle := next((name for name in sorted(sizes) if name.endswith(PICKLES)), None):
        raise BadModel(f"{repo} has weights only as pickle ({pickle}); convert them to safetensors")
    raise BadModel(
        f"{repo} has none of model_index.json, config.json with safetensors, .safetensors and .gguf files; "
        "a repository in the layout of diffusers often ends in -Diffusers"
    )


def _single_files(names: Iterable[str]) -> list[str]:
    """Returns the files that may each be a model: every GGUF, and the safetensors at the root or else below it."""
    files = sorted(name for name in names if not is_leftover(name.rpartition("/")[2]))
    safetensors = [name for name in files if name.endswith(".safetensors") and not SHARD.fullmatch(name)]
    at_root = [name for name in safetensors if "/" not in name]
    return [name for name in files if name.endswith(".gguf")] + (at_root or safetensors)


def is_split(name: str) -> bool:
    """Returns whether a file is one part of a GGUF that was split: "x-00001-of-00003.gguf"."""
    return SPLIT_GGUF.fullmatch(name) is not None
