"""Recognizes language models that also read pictures, and whether their files let them. Any thread; no torch.

transformers lists the classes of such models. Which processors say what stands for a picture in the prompt is read from
its source: without that a prompt cannot be made apart from what a client spelled out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from models.files.json_files import read_config
from models.installed_libraries import package_folder
from models.required_packages import how_to_install, is_installed
from models.weight_identity import DECODERS, is_decoder

PREPROCESSOR, PROCESSOR = "preprocessor_config.json", "processor_config.json"
CLASS_NAMED_IN = (PROCESSOR, PREPROCESSOR, "tokenizer_config.json")
IMAGE_PROCESSORS = re.compile(r'\("([\w.-]+)",\s*\{([^}]*)\}\)')
PROCESSORS = re.compile(r'\("([\w.-]+)",\s*"(\w+Processor)"\)')
PAIR = re.compile(r'\("([\w.-]+)",\s*"(\w+)"\)')
SETTINGS_OF_VIDEO = re.compile(r"self\.\w+ = .*self\.video_processor\.")  # asked for when the processor is opened
NO_PROCESSOR = f"It takes no pictures: {PREPROCESSOR} is missing."
NOT_KNOWN = "It takes no pictures: its processor does not tell what stands for a picture in the prompt."


@dataclass(frozen=True, slots=True)
class _Source:
    """What the source of a processor says."""

    replaces_tokens: bool
    needs_torchvision: bool


def is_vision_language(folder: Path) -> bool:
    config = folder / "config.json"
    architectures = read_config(config).get("architectures") if config.is_file() else None
    return isinstance(architectures, list) and any(name in vision_language_classes() for name in architectures)


def is_chat_model(folder: Path) -> bool:
    return is_decoder(folder) or is_vision_language(folder)


def why_no_images(folder: Path) -> str:
    """Returns a sentence that says why a vision-language model cannot be given pictures, empty when it can."""
    preprocessor, processor = folder / PREPROCESSOR, folder / PROCESSOR
    has_own = processor.is_file() and isinstance(read_config(processor).get("image_processor"), dict)
    if not preprocessor.is_file() and not has_own:
        return NO_PROCESSOR
    source = _processors().get(_processor_class(folder))
    if source is None or not source.replaces_tokens:
        return NOT_KNOWN
    needs_torchvision = source.needs_torchvision or _model_type(folder) in _without_pillow()
    if needs_torchvision and not is_installed("torchvision"):
        return f"It takes no pictures: its processor needs {how_to_install(['torchvision'])}."
    return ""


@lru_cache(maxsize=1)
def vision_language_classes() -> frozenset[str]:
    """Returns the classes of transformers that read pictures and text and write text."""
    [text] = _auto("modeling_auto")
    listed = text.partition("\nMODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES = OrderedDict(")[2].partition("\n)\n")[0]
    return frozenset(name for _, name in PAIR.findall(listed) if not name.endswith(DECODERS))


def _processor_class(folder: Path) -> str:
    for file in CLASS_NAMED_IN:
        if (folder / file).is_file():
            named = read_config(folder / file).get("processor_class")
            if isinstance(named, str):
                return named
    return _processor_of_type().get(_model_type(folder), "")


def _auto(*modules: str) -> list[str]:
    """Returns the source of the modules in which transformers lists its classes by the type of the model."""
    folder = package_folder("transformers") / "models" / "auto"
    return [(folder / f"{name}.py").read_text(encoding="utf-8") for name in modules]


def _model_type(folder: Path) -> str:
    return str(read_config(folder / "config.json").get("model_type"))


@lru_cache(maxsize=1)
def _processor_of_type() -> Mapping[str, str]:
    return {name: cls for text in _auto("auto_mappings", "processing_auto") for name, cls in PROCESSORS.findall(text)}


@lru_cache(maxsize=1)
def _without_pillow() -> frozenset[str]:
    """Returns the model types whose pictures only torchvision can prepare."""
    texts = _auto("auto_mappings", "image_processing_auto")
    entries = (entry for text in texts for entry in IMAGE_PROCESSORS.findall(text))
    return frozenset(name for name, classes in entries if "ImageProcessor" in classes and '"pil"' not in classes)


@lru_cache(maxsize=1)
def _processors() -> Mapping[str, _Source]:
    """Returns what the source of each class of processors says."""
    found: dict[str, _Source] = {}
    for path in (package_folder("transformers") / "models").glob("*/processing_*.py"):
        text = path.read_text(encoding="utf-8")
        # A mask over pictures and tokens (Mllama) is made of the whole prompt, which a processor here never sees.
        replaces = "def replace_image_token" in text and "cross_attention_mask" not in text
        needs_torchvision = 'requires(backends=("torchvision"' in text or SETTINGS_OF_VIDEO.search(text) is not None
        source = _Source(replaces, needs_torchvision)
        found |= dict.fromkeys(re.findall(r"^class (\w+Processor)\(", text, re.MULTILINE), source)
    return found
