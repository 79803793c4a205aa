"""What a language model's folder or GGUF says of itself: its context, its maker's sampling, its chat template."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest

from models.spec import ModelSpec
from tests.support.catalogues import open_catalogue
from tests.support.checkpoints import CHAT_TEMPLATE, chat_folder, gguf_bytes, gguf_string, gguf_tensor, write_json

PLAIN = ("tokenizer_config.json", "chat_template.json")


def only_model(data_dir: Path, toml: str | None = None) -> ModelSpec:
    catalogue = open_catalogue(data_dir, toml)
    assert catalogue.refused == ()
    return catalogue.get(catalogue.names()[0])


def reason(data_dir: Path, toml: str | None = None) -> str:
    (refused,) = open_catalogue(data_dir, toml).refused
    return refused.reason


def text(value: str) -> bytes:
    return struct.pack("<I", 8) + gguf_string(value)


def write_gguf(file: Path, **entries: bytes) -> None:
    known = {"general.architecture": text("llama"), "tokenizer.ggml.model": text("gpt2")}
    named = {key.replace("__", "."): value for key, value in entries.items()}
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(gguf_bytes(entries=known | named, tensors=[gguf_tensor()]))


# Context


@pytest.mark.parametrize(
    ("config", "tokenizer", "context"),
    [
        ({"max_position_embeddings": 512}, {}, 512),
        ({"architectures": ["MptForCausalLM"], "max_position_embeddings": None, "max_seq_len": 640}, {}, 640),
        ({"architectures": ["BloomForCausalLM"], "max_position_embeddings": None, "seq_length": 2048}, {}, 2048),
        ({"architectures": ["GPT2LMHeadModel"], "max_position_embeddings": None, "n_positions": 300}, {}, 300),
        ({"max_position_embeddings": None, "text_config": {"max_position_embeddings": 77}}, {}, 77),
        ({"max_position_embeddings": 131072}, {"model_max_length": 16384}, 131072),
        ({"max_position_embeddings": None}, {"model_max_length": 4096}, 4096),
        ({"max_position_embeddings": None}, {"model_max_length": int(1e30)}, None),
        ({"max_position_embeddings": None}, {}, None),
    ],
)
def test_the_context_is_what_the_config_says_and_else_what_the_tokenizer_says(
    tmp_path: Path, config: dict[str, Any], tokenizer: dict[str, Any], context: int | None
) -> None:
    folder = chat_folder(tmp_path / "models/chat", **config)
    write_json(folder / "tokenizer_config.json", tokenizer)

    assert only_model(tmp_path).limits.context_tokens == context


def test_the_context_of_a_gguf_is_in_its_header(tmp_path: Path) -> None:
    template = {"tokenizer__chat_template": text(CHAT_TEMPLATE)}
    write_gguf(tmp_path / "models/chat.gguf", llama__context_length=struct.pack("<II", 4, 8192), **template)

    assert only_model(tmp_path).limits.context_tokens == 8192


# Sampling


def test_the_makers_sampling_is_the_default_and_its_origin_is_the_checkpoint(tmp_path: Path) -> None:
    folder = chat_folder(tmp_path / "models/chat")
    wishes = {"do_sample": True, "temperature": 0.6, "top_p": 0.95, "top_k": 20, "max_new_tokens": 4096}
    write_json(folder / "generation_config.json", wishes)

    spec = only_model(tmp_path)

    found = spec.defaults
    assert (found.temperature, found.top_p, found.top_k, found.max_tokens) == (0.6, 0.95, 20, 4096)
    for key in ("temperature", "top_p", "top_k", "max_tokens"):
        assert spec.origins[f"defaults.{key}"] == "checkpoint"
    assert "defaults.min_p" not in spec.origins


def test_models_toml_wins_over_the_makers_sampling(tmp_path: Path) -> None:
    folder = chat_folder(tmp_path / "models/chat")
    write_json(folder / "generation_config.json", {"temperature": 0.6, "top_k": 20})

    spec = only_model(tmp_path, "[models.chat.defaults]\ntop_k = 0\nmin_p = 0.05\nmax_tokens = 100\n")

    assert (spec.defaults.temperature, spec.defaults.top_k, spec.defaults.min_p) == (0.6, 0, 0.05)
    assert spec.defaults.max_tokens == 100
    assert spec.origins["defaults.top_k"] == "models.toml"


def test_a_value_that_no_request_may_have_is_named_in_the_notes_and_not_used(tmp_path: Path) -> None:
    folder = chat_folder(tmp_path / "models/chat")
    write_json(folder / "generation_config.json", {"do_sample": True, "temperature": "hot", "top_p": 7})

    spec = only_model(tmp_path)

    assert (spec.defaults.temperature, spec.defaults.top_p) == (1.0, 1.0)
    assert [note.split(" ")[3] for note in spec.notes] == ["temperature", "top_p"]


def test_the_sampling_of_a_gguf_is_in_its_header(tmp_path: Path) -> None:
    write_gguf(
        tmp_path / "models/chat.gguf",
        tokenizer__chat_template=text(CHAT_TEMPLATE),
        general__sampling__temp=struct.pack("<If", 6, 0.5),
        general__sampling__top_k=struct.pack("<Ii", 5, 40),
    )

    spec = only_model(tmp_path)

    assert (spec.defaults.temperature, spec.defaults.top_k) == (0.5, 40)


# Chat templates


def test_a_language_model_without_a_chat_template_is_refused_with_what_to_set(tmp_path: Path) -> None:
    chat_folder(tmp_path / "models/chat", template=None)

    assert reason(tmp_path).startswith("has no chat template; set load.chat_template to one of chatml, llama2, ")


def test_a_gguf_without_a_chat_template_is_refused(tmp_path: Path) -> None:
    write_gguf(tmp_path / "models/chat.gguf")

    assert reason(tmp_path).startswith("has no chat template; ")


@pytest.mark.parametrize("source", ['source = "models/chat"\n', ""])
def test_a_model_without_a_chat_template_is_served_with_the_one_that_its_entry_names(
    tmp_path: Path, source: str
) -> None:
    chat_folder(tmp_path / "models/chat", template=None)

    spec = only_model(tmp_path, f'[models.chat]\n{source}load.chat_template = "chatml"\n')

    assert spec.load.chat_template == "chatml"
    assert spec.origins["load.chat_template"] == "models.toml"


def test_a_gguf_without_a_chat_template_is_served_with_the_one_that_its_entry_names(tmp_path: Path) -> None:
    write_gguf(tmp_path / "models/chat.gguf")

    assert only_model(tmp_path, '[models.chat]\nload.chat_template = "vicuna"\n').load.chat_template == "vicuna"


def test_a_template_may_be_a_file_of_the_checkpoint(tmp_path: Path) -> None:
    folder = chat_folder(tmp_path / "models/chat", template=None)
    (folder / "mine.jinja").write_text(CHAT_TEMPLATE)

    assert only_model(tmp_path, '[models.chat]\nload.chat_template = "mine.jinja"\n').type == "chat"


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("chatm", "load.chat_template must be one of chatml, "),
        ("../mine.jinja", "load.chat_template must be one of chatml, "),
        ("other.jinja", "there is no file other.jinja in the checkpoint's folder"),
        ("loops.jinja", "its chat template needs more time, memory or text than is allowed"),
    ],
)
def test_a_template_that_cannot_be_used_is_refused_by_the_option(tmp_path: Path, option: str, words: str) -> None:
    folder = chat_folder(tmp_path / "models/chat", template=None)
    (folder.parent / "mine.jinja").write_text(CHAT_TEMPLATE)
    if option == "loops.jinja":
        (folder / option).write_text("{{ 'a' * 900000000 }}")

    found = open_catalogue(tmp_path, f'[models.chat]\nsource = "models/chat"\nload.chat_template = "{option}"\n')

    assert words in found.refused[-1].reason


def test_a_template_is_an_option_of_chat_models_alone(tmp_path: Path) -> None:
    from models.errors import BadModel
    from models.load_options import check_load_options
    from models.spec import LoadOptions

    spec = ModelSpec(name="m", type="image", path=None, source="m", load=LoadOptions(chat_template="chatml"))

    with pytest.raises(BadModel, match=r"load\.chat_template is for chat models"):
        check_load_options(spec, on_cpu=True)
