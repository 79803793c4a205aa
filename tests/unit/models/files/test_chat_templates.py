"""A chat template is found wherever transformers, processors and converters have put it."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from models.errors import BadModel
from models.files.chat_templates import all_templates, chat_templates
from tests.support.checkpoints import gguf_bytes, gguf_string, gguf_tensor, write_json


@pytest.mark.parametrize("name", ["tokenizer_config.json", "chat_template.json"])
@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("plain", {"default": "plain"}),
        ([{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "tools"}],
         {"default": "plain", "tool_use": "tools"}),
        ([{"name": "default"}, "plain", None, {"name": 1, "template": "x"}], {}),
        (None, {}),
        ("", {}),
        (7, {}),
    ],
)  # fmt: skip
def test_a_template_in_a_config_is_found(tmp_path: Path, name: str, value: object, found: dict[str, str]) -> None:
    write_json(tmp_path / name, {"chat_template": value})

    assert chat_templates(tmp_path) == found


def test_files_of_their_own_win_over_configs(tmp_path: Path) -> None:
    write_json(tmp_path / "tokenizer_config.json", {"chat_template": "old"})
    (tmp_path / "chat_template.jinja").write_text("new")
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates/tool_use.jinja").write_text("tools")
    (tmp_path / "other.jinja").write_text("other")

    assert chat_templates(tmp_path) == {"default": "new", "tool_use": "tools"}
    assert all_templates(tmp_path) == {"old", "new", "tools", "other"}


def test_a_config_that_is_no_object_has_no_template(tmp_path: Path) -> None:
    write_json(tmp_path / "tokenizer_config.json", [])

    assert chat_templates(tmp_path) == {}


def test_the_templates_of_a_gguf_are_in_its_metadata(tmp_path: Path) -> None:
    keys = {"tokenizer.chat_template": "plain", "tokenizer.chat_template.tool_use": "tools", "tokenizer.other": "x"}
    entries = {key: struct.pack("<I", 8) + gguf_string(value) for key, value in keys.items()}
    (tmp_path / "chat.gguf").write_bytes(gguf_bytes(entries=entries, tensors=[gguf_tensor()]))

    assert chat_templates(tmp_path / "chat.gguf") == {"default": "plain", "tool_use": "tools"}


def test_a_file_that_is_too_large_is_refused(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_text("x" * ((1 << 20) + 1))

    with pytest.raises(BadModel, match="larger than 1 MiB"):
        chat_templates(tmp_path)
