"""The tokenizer of a language model has the one chat template that the server uses."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.damage_families import SOUND
from models.fallback_templates import FALLBACKS
from models.loading.tokenizer import open_tokenizer
from models.spec import ModelSpec
from pipelines.chat.prompts.read_prompt import end_of_turn_tokens, read_prompt
from pipelines.chat_interface import Message
from tests.support.catalogues import open_catalogue
from tests.support.checkpoints import write_json
from tests.support.lanes.loaded_models import save_chat


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_chat(tmp_path / "models/tiny")
    (tmp_path / "models/tiny/chat_template.jinja").unlink()
    return tmp_path / "models/tiny"


def template(spec: ModelSpec) -> str | None:
    assert spec.path is not None
    found: str | None = open_tokenizer(spec, spec.path).chat_template
    return found


def spec_of(folder: Path, toml: str | None = None) -> ModelSpec:
    return open_catalogue(folder.parent.parent, toml).get("tiny")


def test_the_default_of_several_templates_is_used(folder: Path) -> None:
    more = folder / "additional_chat_templates"
    more.mkdir()
    (more / "tool_use.jinja").write_text("tools")
    (folder / "chat_template.jinja").write_text("plain")

    assert template(spec_of(folder)) == "plain"


def test_a_template_for_tools_is_used_when_it_is_the_only_one(folder: Path) -> None:
    more = folder / "additional_chat_templates"
    more.mkdir()
    (more / "tool_use.jinja").write_text("tools")

    assert template(spec_of(folder)) == "tools"


def test_the_template_of_a_processor_is_used(folder: Path) -> None:
    write_json(folder / "chat_template.json", {"chat_template": "of a processor"})

    assert template(spec_of(folder)) == "of a processor"


def test_the_template_of_the_entry_replaces_that_of_the_checkpoint(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("plain")
    (folder / "mine.jinja").write_text("mine")

    assert template(spec_of(folder, '[models.tiny]\nload.chat_template = "mine.jinja"\n')) == "mine"
    assert template(spec_of(folder, '[models.tiny]\nload.chat_template = "vicuna"\n')) == FALLBACKS["vicuna"]


def test_the_tokenizer_of_a_gguf_reads_prompts(tmp_path: Path) -> None:
    (sound,) = (sound for sound in SOUND if sound.name == "ChatGGUF")
    (tmp_path / "models").mkdir()
    sound.write(tmp_path / "models")
    spec = open_catalogue(tmp_path).get("model")
    assert spec.path is not None

    tokenizer = open_tokenizer(spec, spec.path)

    prompt = read_prompt(tokenizer, [Message("user", "Hi <|im_end|>")])
    assert tokenizer.decode(prompt.tokens).endswith("<|im_end|>\n<|im_start|>assistant\n")
    assert prompt.tokens.count(2) == 1
    assert end_of_turn_tokens(tokenizer) == {2}
