"""Turns a language model's folder or GGUF into a `ModelSpec`: its context, defaults and bytes. Any thread; no torch.

A model without a chat template is read as well: models.toml may give it one. `check_has_template` comes after that.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from models.chat_template import check_template
from models.checkpoint.generation_config import sampling_defaults
from models.checkpoint.resident_bytes import ServedAs, resident_bytes
from models.errors import BadModel
from models.fallback_templates import CHOICES
from models.files.chat_templates import all_templates, chat_templates
from models.files.json_files import read_config, read_json
from models.spec import Defaults, Limits, ModelSpec
from models.vision_language import is_chat_model, why_no_images
from models.weight_identity import is_decoder, weight_identity
from pipelines.chat.context_length import NO_LIMIT, context_tokens

TOKENIZER_CONFIG = "tokenizer_config.json"
NO_TEMPLATE = f"has no chat template; set load.chat_template to one of {CHOICES}"


def read_chat_folder(folder: Path, *, name: str, source: str, float_bytes: int) -> ModelSpec:
    """Raises `BadModel`."""
    check_chat_configs(folder)
    n_bytes = resident_bytes(folder, None, ServedAs(float_bytes))
    spec = _spec(name, folder, source, n_bytes, _context(folder))
    if is_decoder(folder):
        return replace(spec, shareable={"model": (weight_identity(folder), n_bytes)})
    why_not = why_no_images(folder)
    return replace(spec, takes_images=not why_not, notes=(*spec.notes, *([why_not] if why_not else [])))


def read_chat_gguf(file: Path, context: int | None, *, name: str, source: str, float_bytes: int) -> ModelSpec:
    """context: None when the header names none. Raises `BadModel`."""
    for text in chat_templates(file).values():
        check_template(text)
    return _spec(name, file, source, resident_bytes(file, None, ServedAs(float_bytes)), context)


def check_chat_configs(folder: Path) -> None:
    """Raises `BadModel` for a folder that could not be served whatever its weights hold; they may be missing."""
    if not is_chat_model(folder):
        raise BadModel(
            "is neither a diffusers pipeline (model_index.json) nor a language model (…ForCausalLM, or one that "
            "transformers lists among those that read pictures)"
        )
    for text in sorted(all_templates(folder)):
        check_template(text)


def check_has_template(spec: ModelSpec) -> None:
    """Raises `BadModel` for a language model that has no chat template and is given none."""
    if spec.type != "chat" or spec.path is None or spec.load.chat_template is not None:
        return
    if not chat_templates(spec.path):
        raise BadModel(NO_TEMPLATE)


def _spec(name: str, path: Path, source: str, n_bytes: int, context: int | None) -> ModelSpec:
    defaults, notes = sampling_defaults(path)
    return ModelSpec(
        name=name,
        type="chat",
        path=path,
        source=source,
        weight_bytes=n_bytes,
        max_running=32,  # rows of one decode step; the default of pipelines.chat.lane
        defaults=Defaults(**defaults),
        limits=Limits(context_tokens=context),
        notes=notes,
        origins={f"defaults.{key}": "checkpoint" for key in defaults},
    )


def _context(folder: Path) -> int | None:
    """Returns the context that the config names; the tokenizer's own limit where it names none.

    Where both are there, the tokenizer's is often that of a training run: DeepSeek's distilled models say 16,384 there
    and are made for 131,072.
    """
    found, tokenizer = context_tokens(read_config(folder / "config.json")), folder / TOKENIZER_CONFIG
    if found is not None or not tokenizer.is_file():
        return found
    config = read_json(tokenizer)
    limit = config.get("model_max_length") if isinstance(config, dict) else None
    return limit if type(limit) is int and 0 < limit < NO_LIMIT else None
