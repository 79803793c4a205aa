"""Embedding models are recognized by their configs, and read with their pooling, prompts and longest text. No torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from models.check import check_source
from models.checkpoint.read_checkpoint import check_configs, read_checkpoint, type_of
from models.embedding_layout import EmbeddingLayout
from models.errors import BadModel, Incomplete
from models.files.sentence_modules import sentence_modules
from models.spec import ModelSpec
from tests.support.catalogues import open_catalogue
from tests.support.checkpoints import ONE_F16, chat_folder, write_json

BERT = {
    "architectures": ["BertModel"], "model_type": "bert", "hidden_size": 32, "max_position_embeddings": 512,
    "pad_token_id": 0,
}  # fmt: skip
POOLING = {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True}
DENSE = {"in_features": 32, "out_features": 8, "bias": False, "activation_function": "torch.nn.modules.linear.Identity"}


def folder(
    path: Path,
    *kinds: str,
    config: dict[str, Any] = BERT,
    pooling: dict[str, Any] = POOLING,
    dense: dict[str, Any] = DENSE,
    **files: dict[str, Any],
) -> Path:
    """Writes a checkpoint. kinds: of its modules. files: other configs, by their names without ".json"."""
    write_json(path / "config.json", config)
    (path / "model.safetensors").write_bytes(ONE_F16)
    write_json(path / "tokenizer.json", {})
    modules = []
    for index, kind in enumerate(kinds):
        name = "" if kind == "Transformer" else f"{index}_{kind}"
        modules.append({"idx": index, "name": str(index), "path": name, "type": f"sentence_transformers.models.{kind}"})
        if kind == "Pooling":
            write_json(path / name / "config.json", pooling)
        if kind == "Dense":
            write_json(path / name / "config.json", dense)
            (path / name / "model.safetensors").write_bytes(ONE_F16)
    if kinds:
        write_json(path / "modules.json", modules)
    for name, content in files.items():
        write_json(path / f"{name}.json", content)
    return path


def read(path: Path, **options: Any) -> ModelSpec:
    return read_checkpoint(path, name="m", source=str(path), float_bytes=4, **options)


def layout(path: Path) -> EmbeddingLayout:
    found = read(path).embedding
    assert found is not None
    return found


def test_a_model_of_sentence_transformers_is_read_with_all_that_it_says(tmp_path: Path) -> None:
    folder(
        tmp_path,
        *("Transformer", "Pooling", "Dense", "Normalize"),
        pooling=POOLING | {"pooling_mode_cls_token": True, "include_prompt": False},
        dense=DENSE | {"in_features": 64},
        config_sentence_transformers={"prompts": {"query": "q: ", "document": None}, "default_prompt_name": "query"},
        sentence_bert_config={"max_seq_length": 256, "do_lower_case": True},
    )
    spec = read(tmp_path)

    assert (spec.type, spec.limits.context_tokens, spec.max_running) == ("embedding", 256, 32)
    found = layout(tmp_path)
    assert (found.dimensions, found.pooling, found.pools_prompt) == (8, ("cls", "mean"), False)
    assert (found.normalizes, found.lower_cases, found.max_positions) == (True, True, 512)
    assert (found.prompts, found.default_prompt) == ({"query": "q: ", "document": ""}, "query")
    assert [(dense.n_inputs, dense.n_outputs, dense.has_bias, dense.activation) for dense in found.dense] == [
        (64, 8, False, "Identity")
    ]


@pytest.mark.parametrize(
    ("pooling", "modes"),
    [
        ({"pooling_mode": "lasttoken"}, ("lasttoken",)),
        ({"pooling_mode": ["max", "cls"]}, ("max", "cls")),
        ({"pooling_mode_lasttoken": True, "pooling_mode_max_tokens": True}, ("max", "lasttoken")),
        ({}, ("mean",)),
    ],
)
def test_modes_of_pooling_are_read_from_old_and_new_configs(
    tmp_path: Path, pooling: dict[str, Any], modes: tuple[str, ...]
) -> None:
    assert layout(folder(tmp_path, "Transformer", "Pooling", pooling=pooling)).pooling == modes


def test_a_plain_encoder_gets_the_mean_of_its_tokens_and_a_note(tmp_path: Path) -> None:
    spec = read(folder(tmp_path, config=BERT | {"architectures": ["BertForMaskedLM"]}))

    assert spec.embedding == EmbeddingLayout(dimensions=32, pooling=("mean",), max_positions=512)
    assert "the mean of a text's token states" in spec.notes[0]


def test_a_headless_decoder_gets_its_last_token(tmp_path: Path) -> None:
    qwen = {"architectures": ["Qwen2Model"], "model_type": "qwen2", "hidden_size": 16, "max_position_embeddings": 8192}
    spec = read(folder(tmp_path, config=qwen))

    assert (layout(tmp_path).pooling, spec.limits.context_tokens) == (("lasttoken",), 8192)


def test_a_language_model_with_modules_is_an_embedding_model_and_without_only_where_its_entry_says_so(
    tmp_path: Path,
) -> None:
    qwen = {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_size": 16}
    both = {"max_position_embeddings": 4096}
    assert type_of(folder(tmp_path / "a", "Transformer", "Pooling", config=qwen | both)) == "embedding"
    plain = folder(tmp_path / "b", config=qwen | both)
    assert type_of(plain) == "chat"
    assert read(plain, wanted="embedding").type == "embedding"
    catalogue = open_catalogue(tmp_path, f'[models.b]\ntype = "embedding"\nsource = "{plain}"\n')
    assert catalogue.get("b").type == "embedding"


@pytest.mark.parametrize(
    ("config", "tokens"),
    [
        (BERT, 512),
        (BERT | {"model_type": "roberta", "max_position_embeddings": 514, "pad_token_id": 1}, 512),
        (BERT | {"model_type": "xlm-roberta", "max_position_embeddings": 514, "pad_token_id": 1}, 512),
        (BERT | {"max_position_embeddings": None}, 512),
    ],
)
def test_the_longest_text_is_what_the_network_has_places_for(
    tmp_path: Path, config: dict[str, Any], tokens: int
) -> None:
    assert read(folder(tmp_path, config=config)).limits.context_tokens == tokens
    write_json(tmp_path / "tokenizer_config.json", {"model_max_length": 100})
    assert read(tmp_path).limits.context_tokens == 100


@pytest.mark.parametrize(
    ("kinds", "changes", "words"),
    [
        (("Transformer", "SpladePooling"), {}, "a module of the kind SpladePooling"),
        (("Pooling", "Transformer"), {}, "another order"),
        (("Transformer", "Pooling", "Normalize", "Dense"), {}, "another order"),
        (("Transformer", "Pooling"), {"pooling": {"pooling_mode": "best"}}, "pooling_mode best is none of"),
        (("Transformer", "Pooling", "Dense"), {"dense": DENSE | {"in_features": 5}}, "takes 5 values, it gets 32"),
        (("Transformer", "Pooling", "Dense"), {"dense": DENSE | {"activation_function": "os.system"}}, "activation"),
        (("Transformer", "Pooling", "Dense"), {"dense": DENSE | {"use_residual": True}}, "use_residual"),
        (("Transformer", "Pooling"), {"config_sentence_transformers": {"prompts": [1]}}, "prompts are no object"),
        (("Transformer", "Pooling"), {"config_sentence_transformers": {"prompts": {"a": 5}}}, "a prompt is no text"),
        (("Transformer", "Pooling"), {"config_sentence_transformers": {"default_prompt_name": "x"}}, "none of its"),
        (("Transformer", "Pooling"), {"config_sentence_transformers": {"model_type": "SparseEncoder"}}, "SparseEnco"),
        (("Transformer", "Pooling"), {"config": BERT | {"hidden_size": None}}, "hidden_size"),
        ((), {"config": BERT | {"architectures": ["BertForSequenceClassification"]}}, "gives scores"),
    ],
)
def test_what_is_not_served_is_refused_by_name(
    tmp_path: Path, kinds: tuple[str, ...], changes: dict[str, Any], words: str
) -> None:
    path = folder(tmp_path / "m", *kinds, **changes)

    with pytest.raises(BadModel, match=words):
        read(path)
    with pytest.raises(BadModel, match=words):
        check_configs(path)
    report = check_source(str(path), relative_to=tmp_path, cache_dir=tmp_path, auto_dtype="float32")
    assert words in report.reason


def test_a_module_of_the_checkpoints_own_is_refused_whatever_its_name(tmp_path: Path) -> None:
    path = folder(tmp_path, "Transformer", "Pooling")
    modules = (path / "modules.json").read_text().replace("sentence_transformers.models.Trans", "custom_st.Trans")
    (path / "modules.json").write_text(modules)

    with pytest.raises(BadModel, match=r"a module of the kind custom_st\.Transformer"):
        read(path)


@pytest.mark.parametrize("path", ["../x", "a/b", "..", "a\\b"])
def test_modules_stay_inside_their_folder(tmp_path: Path, path: str) -> None:
    write_json(tmp_path / "modules.json", [{"type": "x.Pooling", "path": path}])

    with pytest.raises(BadModel, match="points outside"):
        sentence_modules(tmp_path)


@pytest.mark.parametrize("content", ["{}", "[]", "[5]", '[{"type": 5}]', json.dumps([{"type": "a", "path": ""}] * 17)])
def test_a_damaged_list_of_modules_is_refused(tmp_path: Path, content: str) -> None:
    folder(tmp_path)
    (tmp_path / "modules.json").write_text(content)

    with pytest.raises(BadModel, match=r"modules\.json"):
        read(tmp_path)


@pytest.mark.parametrize("missing", ["1_Pooling/config.json", "2_Dense/config.json", "2_Dense/model.safetensors"])
def test_missing_files_of_modules_are_named(tmp_path: Path, missing: str) -> None:
    path = folder(tmp_path, "Transformer", "Pooling", "Dense")
    (path / missing).unlink()

    with pytest.raises(Incomplete) as caught:
        read(path)
    assert missing.partition("/")[0] in caught.value.missing[0]


def test_a_layer_that_is_only_a_pickle_is_refused(tmp_path: Path) -> None:
    path = folder(tmp_path, "Transformer", "Pooling", "Dense")
    (path / "2_Dense/model.safetensors").rename(path / "2_Dense/pytorch_model.bin")

    with pytest.raises(BadModel, match="only as pickle"):
        read(path)


def test_a_longer_text_than_the_network_has_places_for_is_refused(tmp_path: Path) -> None:
    path = folder(tmp_path / "m", "Transformer", "Pooling", sentence_bert_config={"max_seq_length": 256})
    entry = f'[models.m]\nsource = "{path}"\n[models.m.limits]\ncontext_tokens = '
    assert open_catalogue(tmp_path, f"{entry}512\n").get("m").limits.context_tokens == 512
    (refused,) = open_catalogue(tmp_path, f"{entry}513\n").refused
    assert "places for 512 tokens" in refused.reason


@pytest.mark.parametrize("option", ['quantization = "int8"', "offload = true", "compile = true"])
def test_load_options_of_other_types_are_refused(tmp_path: Path, option: str) -> None:
    path = folder(tmp_path / "m", "Transformer", "Pooling")
    (refused,) = open_catalogue(tmp_path, f'[models.m]\nsource = "{path}"\n[models.m.load]\n{option}\n').refused

    assert "not for embedding models" in refused.reason


def test_found_in_a_models_folder_it_is_listed_beside_chat_models(tmp_path: Path) -> None:
    folder(tmp_path / "models/bert", "Transformer", "Pooling")
    chat_folder(tmp_path / "models/llama")
    catalogue = open_catalogue(tmp_path)

    assert {spec.name: spec.type for spec in catalogue.specs()} == {"bert": "embedding", "llama": "chat"}
    assert (catalogue.default_for("embedding"), catalogue.default_for("chat")) == ("bert", "llama")
