"""Reads the chat templates of a language model from its folder or GGUF. Any thread; no torch.

They have had several places: tokenizer_config.json, chat_template.json of processors, chat_template.jinja with more of
them in the folder additional_chat_templates, and a GGUF's metadata. Of one name, a file of its own wins, as in
transformers.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from models.errors import BadModel
from models.files.gguf_header import read_gguf_header
from models.files.json_files import read_json
from models.files.leftovers import files_in
from models.files.regular_file import open_file

MAX_TEMPLATE_BYTES = 1 << 20  # the largest template in use has less than 100 KiB
CONFIGS = ("chat_template.json", "tokenizer_config.json")  # of one name, the later one's counts
DEFAULT = "default"
FILE = "chat_template.jinja"
MORE_FILES = "additional_chat_templates/*.jinja"
GGUF_KEY = "tokenizer.chat_template"


def chat_templates(path: Path) -> dict[str, str]:
    """Returns the templates by name; one without a name is "default". Raises `BadModel` for a damaged config."""
    return {name: text for name, text in (_in_folder(path) if path.is_dir() else _in_gguf(path)) if text}


def all_templates(folder: Path) -> set[str]:
    """Returns every template in a folder, also those that another one replaces or `load.chat_template` could name."""
    return {*(text for _, text in _in_folder(folder)), *(read_template(file) for file in files_in(folder, "*.jinja"))}


def _in_folder(folder: Path) -> Iterator[tuple[str, str]]:
    for name in CONFIGS:
        if (folder / name).is_file():
            config = read_json(folder / name)
            yield from _named(config.get("chat_template") if isinstance(config, dict) else None)
    if (folder / FILE).is_file():
        yield DEFAULT, read_template(folder / FILE)
    for file in files_in(folder, MORE_FILES):
        yield file.stem, read_template(file)


def _in_gguf(file: Path) -> Iterator[tuple[str, str]]:
    metadata = read_gguf_header(file).metadata if file.suffix == ".gguf" else {}
    for key, value in metadata.items():
        if isinstance(value, str) and (key == GGUF_KEY or key.startswith(GGUF_KEY + ".")):
            yield key.removeprefix(GGUF_KEY).removeprefix(".") or DEFAULT, value


def read_template(file: Path) -> str:
    """Raises `BadModel` for a file that is too large."""
    with open_file(file) as opened:
        content = opened.read(MAX_TEMPLATE_BYTES + 1)
    if len(content) > MAX_TEMPLATE_BYTES:
        raise BadModel("its chat template is larger than 1 MiB")
    return content.decode("utf-8", "replace").replace("\r\n", "\n").replace("\r", "\n")


def _named(value: object) -> Iterator[tuple[str, str]]:
    named = [{"name": DEFAULT, "template": value}] if isinstance(value, str) else value
    for each in named if isinstance(named, list) else []:
        match each:
            case {"name": str(name), "template": str(text)}:
                yield name, text
