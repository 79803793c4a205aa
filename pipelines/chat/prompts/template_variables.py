"""Checks the variables that a client hands to a chat template (`chat_template_kwargs`). Pure functions; any thread."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from pipelines.chat.prompts.special_tokens import special_tokens
from pipelines.chat_interface import PromptRefused

FIELD = "chat_template_kwargs"
NAME = re.compile("[a-zA-Z][a-zA-Z0-9_]{0,63}")
MAX_NAMES = 64
MAX_CHARS = 16 << 10  # of all values as JSON
MAX_DEPTH = 8
RESERVED = frozenset(
    (
        # what we pass ourselves, and what transformers reads before the template does
        "messages", "tools", "documents", "conversation", "conversations", "chat_template", "add_generation_prompt",
        "continue_final_message", "tokenize", "sanitize_control_tokens", "padding", "truncation", "max_length",
        "tokenizer_kwargs",
        # the language of templates
        "self", "loop", "range", "dict", "namespace", "lipsum", "cycler", "joiner", "raise_exception", "strftime_now",
    )
)  # fmt: skip


def check_variables(tokenizer: Any, variables: Mapping[str, object]) -> None:
    """Raises `PromptRefused` that names the variable at fault."""
    if len(variables) > MAX_NAMES:
        raise PromptRefused(f"{FIELD} has more than {MAX_NAMES} names.", field=FIELD)
    for name, value in variables.items():
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise PromptRefused(f"{FIELD} has a name that is not made of letters, digits and _.", field=FIELD)
        is_token = name.endswith(("_token", "_tokens", "_token_id")) or name in tokenizer.special_tokens_map
        if name in RESERVED or name.startswith("return_") or is_token:
            raise PromptRefused(
                f"{FIELD}.{name} cannot be set: it is given by the server or the checkpoint.", field=FIELD
            )
        if not _is_flat(value, MAX_DEPTH):
            raise PromptRefused(f"{FIELD}.{name} is nested more than {MAX_DEPTH} deep.", field=FIELD)
    try:
        texts = {name: json.dumps(value, ensure_ascii=False) for name, value in variables.items()}
    except (TypeError, ValueError) as error:
        raise PromptRefused(f"{FIELD} must hold JSON values.", str(error), field=FIELD) from error
    if sum(map(len, texts.values())) > MAX_CHARS:
        raise PromptRefused(f"{FIELD} is longer than {MAX_CHARS} characters.", field=FIELD)
    for name, text in texts.items():
        if special_tokens(tokenizer).texts.search(text):
            raise PromptRefused(f"{FIELD}.{name} spells out a special token of this model.", field=FIELD)


def _is_flat(value: object, depth: int) -> bool:
    """Returns whether lists and objects are nested at most `depth` deep."""
    if isinstance(value, Mapping):
        return depth > 0 and all(_is_flat(each, depth - 1) for each in value.values())
    if isinstance(value, list | tuple):
        return depth > 0 and all(_is_flat(each, depth - 1) for each in value)
    return True
