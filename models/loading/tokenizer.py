"""Opens the tokenizer of a language model, with the chat template that the server uses. Any thread."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from models.fallback_templates import fallback_template
from models.files.chat_templates import chat_templates
from models.loading.components import errors_named
from models.spec import ModelSpec
from pipelines.chat.templates.chat_template import chosen_template


def open_tokenizer(spec: ModelSpec, path: Path) -> Any:
    """Its `chat_template` is one text, or None when there is none. Raises `BadModel`."""
    from transformers import AutoTokenizer

    folder, file = (path.parent, {"gguf_file": path.name}) if path.is_file() else (path, {})
    with errors_named("the tokenizer", AutoTokenizer):
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False, **file)
    if spec.load.chat_template is not None:
        tokenizer.chat_template = fallback_template(spec.load.chat_template, path)
    else:
        tokenizer.chat_template = chosen_template(chat_templates(path))
    return tokenizer
