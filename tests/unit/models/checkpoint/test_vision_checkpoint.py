"""Which folders are vision-language models, and which of them may be shown pictures. No weights, no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from models import vision_language
from models.checkpoint.read_checkpoint import read_checkpoint, type_of
from models.errors import BadModel
from models.spec import ModelSpec
from models.vision_language import is_vision_language
from tests.support.checkpoints import chat_folder, write_json

QWEN = {"architectures": ["Qwen2_5_VLForConditionalGeneration"], "model_type": "qwen2_5_vl"}


def read(folder: Path, config: dict[str, Any], **files: Any) -> ModelSpec:
    chat_folder(folder, **config)
    for name, content in files.items():
        write_json(folder / f"{name}.json", content)
    return read_checkpoint(folder, name="m", source="m", float_bytes=4)


@pytest.fixture(autouse=True)
def no_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vision_language, "is_installed", lambda module: module != "torchvision")


@pytest.mark.parametrize(
    "architecture",
    [
        "Qwen2_5_VLForConditionalGeneration", "Qwen3VLForConditionalGeneration", "Gemma3ForConditionalGeneration",
        "SmolVLMForConditionalGeneration", "Idefics3ForConditionalGeneration", "LlavaForConditionalGeneration",
        "LlavaNextForConditionalGeneration", "LlavaOnevisionForConditionalGeneration",
        "Mistral3ForConditionalGeneration", "InternVLForConditionalGeneration", "PaliGemmaForConditionalGeneration",
    ],
)  # fmt: skip
def test_the_classes_that_transformers_lists_are_chat_models(tmp_path: Path, architecture: str) -> None:
    chat_folder(tmp_path / "m", architectures=[architecture])

    assert is_vision_language(tmp_path / "m")
    assert type_of(tmp_path / "m") == "chat"


@pytest.mark.parametrize("architecture", ["LlamaForCausalLM", "FuyuForCausalLM", "CLIPModel", "NoSuchClass", 7])
def test_other_classes_are_not_taken_for_vision_language_models(tmp_path: Path, architecture: Any) -> None:
    chat_folder(tmp_path / "m", architectures=[architecture])

    assert not is_vision_language(tmp_path / "m")


def test_a_model_with_its_processor_takes_pictures(tmp_path: Path) -> None:
    older = read(tmp_path / "a", QWEN, preprocessor_config={"processor_class": "Qwen2_5_VLProcessor"})
    newer = read(tmp_path / "b", QWEN, processor_config={"image_processor": {"size": 4}})

    assert (older.takes_images, newer.takes_images, older.notes, newer.notes) == (True, True, (), ())
    assert older.type == "chat"


@pytest.mark.parametrize(
    ("config", "files", "note"),
    [
        (QWEN, {}, "It takes no pictures: preprocessor_config.json is missing."),
        (QWEN, {"processor_config": {"processor_class": "x"}}, "preprocessor_config.json is missing"),
        (QWEN, {"preprocessor_config": {"processor_class": "MllamaProcessor"}}, "its processor does not tell"),
        (QWEN, {"preprocessor_config": {"processor_class": "NoSuchProcessor"}}, "its processor does not tell"),
        (
            {"architectures": ["Mistral3ForConditionalGeneration"], "model_type": "mistral3"},
            {"preprocessor_config": {}},
            "its processor needs torchvision, which is not installed: pip install 'agentname[vision]'.",
        ),
        (
            {"architectures": ["Llama4ForConditionalGeneration"], "model_type": "llama4"},
            {"preprocessor_config": {}},
            "its processor needs torchvision, which is not installed",
        ),
    ],
)
def test_a_model_that_cannot_be_shown_pictures_still_chats_and_says_why(
    tmp_path: Path, config: dict[str, Any], files: dict[str, Any], note: str
) -> None:
    spec = read(tmp_path / "m", config, **files)

    assert (spec.type, spec.takes_images) == ("chat", False)
    assert any(note in each for each in spec.notes)


def test_a_processor_that_would_run_code_of_the_checkpoint_is_refused(tmp_path: Path) -> None:
    own = {"processor_class": "Mine", "auto_map": {"AutoProcessor": "mine.Mine"}}
    with pytest.raises(BadModel, match="asks to run code of its own"):
        read(tmp_path / "m", QWEN | {"model_type": "mine"}, processor_config=own)
