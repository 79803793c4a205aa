"""Names the parts of a checkpoint that its own files call for and that are not there. Any thread; no torch.

A folder that is still being copied, an interrupted download and a dangling link of the hub's cache look alike: a part
is listed, and its files are missing. What the libraries do without (components that are null or optional for the
pipeline class) is not missing. A tokenizer without vocabulary is: the libraries make an empty one, which reads nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from models.errors import BadModel, Incomplete
from models.files.leftovers import files_in, is_unfinished, unfinished_files
from models.files.model_index import components, unlisted_components
from models.files.sentence_modules import sentence_modules
from models.files.weight_files import find_weights

WITHOUT_VOCABULARY = ("ByT5Tokenizer", "ByT5TokenizerFast")  # their tokens are bytes
TOKENIZERS = ("Tokenizer", "TokenizerFast", "TokenizersBackend", "SentencePieceBackend")  # ends of class names
VOCABULARIES = ("tokenizer.json", "*.model", "vocab.txt", "*.tiktoken", "tekken.json")
IMAGE_PROCESSOR = re.compile(r"(ImageProcessor|VideoProcessor)(Pil|Fast)?$|FeatureExtractor$")
PROCESSOR_CONFIGS = ("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json")


def check_pipeline_complete(folder: Path, model_index: Mapping[str, object], *, weights: bool = True) -> None:
    """Raises `Incomplete` that names each missing part of a pipeline folder, `BadModel` for an index that lacks one.

    weights: False asks for configs and vocabularies alone, of a folder that lends them to a single file.
    """
    if unlisted := unlisted_components(model_index):
        raise BadModel(
            f"model_index.json does not list {', '.join(unlisted)}, which {model_index['_class_name']} needs; "
            "one that is left out is [null, null]"
        )
    missing = [
        f"{name}: {part}"
        for name, (_, cls) in components(model_index).items()
        for part in _missing_of_component(folder, name, cls, weights)
    ]
    _raise_if(missing, folder)


def check_language_model_complete(folder: Path) -> None:
    """Raises `Incomplete` that names what a language model's folder lacks: weights, shards or the vocabulary.

    The parts of an embedding model that have folders of their own count too.
    """
    missing = [*_missing_weights(folder), *_missing_vocabulary(folder)]
    for module in sentence_modules(folder):
        if module.kind in ("Pooling", "Dense"):
            part = folder / module.folder
            missing += [f"{module.folder}: {name}" for name in _missing_config(part, "config.json")]
            if module.kind == "Dense":
                missing += [f"{module.folder}: {name}" for name in _missing_weights(part)]
    _raise_if(missing, folder)


def _raise_if(missing: list[str], folder: Path) -> None:
    if missing:
        unfinished = [name for part in (folder, *_parts(folder)) for name in unfinished_files(part)]
        hint = f"; {unfinished[0]} is an unfinished download" if unfinished else ""
        raise Incomplete(f"has not all of its files: {'; '.join(missing)}{hint}", missing=tuple(missing))


def _parts(folder: Path) -> Iterator[Path]:
    yield from (path for path in files_in(folder, "*") if path.is_dir())


def _missing_of_component(folder: Path, name: str, cls: str, weights: bool) -> Iterator[str]:
    part = folder / name
    if not part.is_dir():
        near = next((path.name for path in _parts(folder) if path.name.lower() == name.lower()), None)
        yield "the folder" if near is None else f"the folder ({near} is written differently)"
    elif cls.endswith("Scheduler"):
        yield from _missing_config(part, "scheduler_config.json")
    elif cls.endswith("Guidance"):
        yield from _missing_config(part, "guider_config.json")
    elif cls.endswith(TOKENIZERS):
        yield from () if cls in WITHOUT_VOCABULARY else _missing_vocabulary(part)
    elif IMAGE_PROCESSOR.search(cls):
        yield from _missing_config(part, *PROCESSOR_CONFIGS)
    elif cls.endswith("Processor"):
        yield from (*_missing_config(part, *PROCESSOR_CONFIGS), *_missing_vocabulary(part))
    else:
        yield from _missing_config(part, "config.json")
        yield from _missing_weights(part) if weights else ()


def _missing_config(folder: Path, *names: str) -> Iterator[str]:
    """Yields the first of several names when the folder has none of them."""
    if not any((folder / name).is_file() for name in names):
        yield names[0]


def _missing_weights(folder: Path) -> Iterator[str]:
    found = find_weights(folder)
    if found is None:
        yield "the weights"
        return
    try:
        found.files()
    except Incomplete as error:
        yield from error.missing


def _missing_vocabulary(folder: Path) -> Iterator[str]:
    if any(path.is_file() and not is_unfinished(path) for name in VOCABULARIES for path in files_in(folder, name)):
        return
    has_words, has_merges = (folder / "vocab.json").is_file(), (folder / "merges.txt").is_file()
    if not has_words and not has_merges:
        yield "the vocabulary (tokenizer.json)"
    elif not has_words or not has_merges:
        yield "merges.txt" if has_words else "vocab.json"
