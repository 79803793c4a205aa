"""Turns an embedding model's folder into a `ModelSpec`: its vectors, prompts, longest text and bytes.

Any thread; no torch. A folder in the layout of sentence-transformers says all of this itself. A plain encoder, or the
headless network of a decoder, gets the usual pooling, and a note that says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from models.checkpoint.component_configs import Config, positive_int
from models.checkpoint.resident_bytes import ServedAs, resident_bytes
from models.checkpoint.sentence_layout import read_sentence_layout
from models.embedding_layout import EmbeddingLayout
from models.errors import BadModel
from models.files.json_files import read_config, read_json
from models.files.sentence_modules import has_modules
from models.spec import Limits, ModelSpec
from models.weight_identity import is_decoder
from pipelines.chat.context_length import NO_LIMIT, context_tokens

# Encoders of text in transformers, by the model_type of their config.
ENCODERS = frozenset({
    "albert", "bert", "big_bird", "camembert", "convbert", "data2vec-text", "deberta", "deberta-v2", "distilbert",
    "electra", "ernie", "eurobert", "ibert", "megatron-bert", "mobilebert", "modernbert", "mpnet", "nomic_bert",
    "rembert", "roberta", "roberta-prelayernorm", "roformer", "squeezebert", "xlm-roberta", "xlm-roberta-xl", "xmod",
})  # fmt: skip
DECODERS = frozenset({"gemma", "gemma2", "gemma3_text", "llama", "mistral", "qwen2", "qwen3"})  # as "MistralModel"
SCORERS = ("ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering", "ForMultipleChoice")
# These count positions from the id of their padding token on, so that the first ones are never used.
OFFSET_POSITIONS = frozenset({
    "camembert", "data2vec-text", "ibert", "mpnet", "roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl",
    "xmod",
})  # fmt: skip
USUAL_TOKENS = 512  # longest text where neither the files nor models.toml name one
SENTENCE_CONFIG = "sentence_bert_config.json"
PLAIN = "It has no modules.json: the {} of a text's token states, scaled to length 1, is taken as its vector."


def is_embedding(folder: Path) -> bool:
    """Returns whether a folder of transformers is an embedding model by its configs alone. Raises `BadModel`."""
    if has_modules(folder):
        return True
    config = read_config(folder / "config.json") if (folder / "config.json").is_file() else {}
    architectures = _architectures(config)
    if "_class_name" in config or is_decoder(folder) or any(name.endswith(SCORERS) for name in architectures):
        return False
    model_type = config.get("model_type")
    return model_type in ENCODERS or (model_type in DECODERS and any(name.endswith("Model") for name in architectures))


def read_embedding_folder(folder: Path, *, name: str, source: str, float_bytes: int) -> ModelSpec:
    """Raises `BadModel`."""
    layout, longest, notes = _read_configs(folder)
    return ModelSpec(
        name=name,
        type="embedding",
        path=folder,
        source=source,
        weight_bytes=resident_bytes(folder, None, ServedAs(float_bytes)),
        max_running=32,  # requests whose texts may share forwards
        limits=Limits(context_tokens=longest),
        embedding=layout,
        notes=notes,
    )


def check_embedding_configs(folder: Path) -> None:
    """Raises `BadModel` for a folder that could not be served whatever its weights hold; they may be missing."""
    _read_configs(folder)


def scorer_reason(folder: Path) -> str | None:
    """Returns why a classifier or reranker cannot be served; None for any other folder."""
    scorer = next(
        (name for name in _architectures(read_config(folder / "config.json")) if name.endswith(SCORERS)), None
    )
    return None if scorer is None else f"is a {scorer[:80]}: it gives scores, and neither vectors nor replies"


def _read_configs(folder: Path) -> tuple[EmbeddingLayout, int, tuple[str, ...]]:
    """Returns the layout, the most tokens of a text, and notes."""
    config = read_config(folder / "config.json")
    hidden = _hidden_size(config)
    notes: tuple[str, ...] = ()
    if has_modules(folder):
        layout = read_sentence_layout(folder, hidden)
    else:
        is_decoding = config.get("model_type") not in ENCODERS
        layout = EmbeddingLayout(dimensions=hidden, pooling=("lasttoken" if is_decoding else "mean",))
        notes = (PLAIN.format("last" if is_decoding else "mean"),)
    positions = _positions(config)
    limits = [_longest_text(folder), positions]
    longest = min((limit for limit in limits if limit is not None), default=USUAL_TOKENS)
    return replace(layout, max_positions=positions), longest, notes


def _architectures(config: Config) -> Sequence[str]:
    names = config.get("architectures")
    return [str(name) for name in names] if isinstance(names, list) else []


def _hidden_size(config: Config) -> int:
    nested = config.get("text_config")
    places = (config, nested if isinstance(nested, Mapping) else {})
    found = (positive_int(place, key) for place in places for key in ("hidden_size", "dim", "d_model", "n_embd"))
    size = next((size for size in found if size), 0)
    if not size:
        raise BadModel("config.json does not name its hidden_size")
    return size


def _positions(config: Config) -> int | None:
    """Returns how many tokens the network has places for; None when the config names no number."""
    found = context_tokens(config)
    if found is None or config.get("model_type") not in OFFSET_POSITIONS:
        return found
    pad = config.get("pad_token_id")
    return found - (pad if type(pad) is int else 1) - 1


def _longest_text(folder: Path) -> int | None:
    """Returns the most tokens that the checkpoint says its texts should have."""
    found = _number_in(folder / SENTENCE_CONFIG, "max_seq_length")
    return found if found is not None else _number_in(folder / "tokenizer_config.json", "model_max_length")


def _number_in(file: Path, key: str) -> int | None:
    config = read_json(file) if file.is_file() else None
    value = config.get(key) if isinstance(config, dict) else None
    return value if type(value) is int and 0 < value < NO_LIMIT else None
