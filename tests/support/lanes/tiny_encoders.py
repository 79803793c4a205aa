"""Encoders of a few thousand random weights in several architectures, and a tokenizer for them, made in code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast

from pipelines.embedding.encoder import Encoder
from pipelines.embedding.lane import EmbeddingLane
from tests.support.checkpoints import write_json

SPECIAL = ["<pad>", "<s>", "</s>", "<unk>", "<mask>"]
PIECES = [
    *"abcdefghijklmnopqrstuvwxyz0123456789",
    *",.!?:-",
    *(f"##{c}" for c in "abcdefghijklmnopqrstuvwxyz0123456789"),
]
N_TOKENS = len(SPECIAL) + len(PIECES)
MAX_TOKENS = 126  # positions of the models: RoBERTa counts from 2 on

SMALL: dict[str, Any] = {
    "vocab_size": N_TOKENS,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "initializer_range": 0.2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
DISTILBERT = {"dim": 32, "hidden_dim": 48, "n_layers": 3, "n_heads": 4}
GROUPED = {"num_key_value_heads": 2, "head_dim": 8}
ARCHITECTURES: dict[str, dict[str, Any]] = {  # model_type → settings of its config beside SMALL
    "bert": {},
    "roberta": {"pad_token_id": 1, "type_vocab_size": 1},
    "xlm-roberta": {"pad_token_id": 1, "type_vocab_size": 1},
    "mpnet": {"pad_token_id": 1},
    "distilbert": DISTILBERT,
    "modernbert": {"local_attention": 8, "global_attn_every_n_layers": 2, "cls_token_id": 1, "sep_token_id": 2},
    "nomic_bert": {},
    "qwen3": GROUPED,
    "mistral": GROUPED | {"sliding_window": None},
}
DECODERS = ("qwen3", "mistral")


def tiny_model(model_type: str = "bert", **settings: Any) -> Any:
    """A model without a head, in float32. settings: of its config."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = AutoConfig.for_model(model_type, **(SMALL | ARCHITECTURES[model_type] | settings))
        return AutoModel.from_config(config).eval().requires_grad_(False)


def tiny_encoder(model_type: str = "bert", **options: Any) -> Encoder:
    """options: of `Encoder`."""
    pooling = ("lasttoken",) if model_type in DECODERS else ("mean",)
    return Encoder(tiny_model(model_type), **({"pooling": pooling} | options)).requires_grad_(False)


def tiny_lane(encoder: Encoder | None = None, **options: Any) -> EmbeddingLane:
    """options: of `EmbeddingLane`."""
    return EmbeddingLane(encoder or tiny_encoder(), **({"max_tokens": MAX_TOKENS} | options))


def tiny_tokenizer(*, decoder: bool = False) -> Any:
    """One token for each letter. decoder: only an end token is added, as Qwen's embedding models have it."""
    vocabulary = {token: index for index, token in enumerate([*SPECIAL, *PIECES])}
    tokenizer = Tokenizer(models.WordPiece(vocab=vocabulary, unk_token="<unk>", max_input_chars_per_word=1000))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>" if decoder else "<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", cls_token="<s>", sep_token="</s>",
        pad_token="<pad>", unk_token="<unk>", mask_token="<mask>",
    )  # fmt: skip


def save_checkpoint(folder: Path, model_type: str = "bert", model: Any = None) -> Path:
    """Writes a checkpoint of transformers: config, weights and tokenizer."""
    (model or tiny_model(model_type)).save_pretrained(folder)
    tiny_tokenizer(decoder=model_type in DECODERS).save_pretrained(folder)
    return folder


def save_sentence_model(
    folder: Path,
    model_type: str = "bert",
    *,
    pooling: dict[str, Any] | None = None,
    dense: torch.nn.Linear | None = None,
    activation: str = "torch.nn.modules.activation.Tanh",
    normalizes: bool = True,
    model: Any = None,
    transformer: dict[str, Any] | None = None,
    **config: Any,
) -> Path:
    """Writes a checkpoint in the layout of sentence-transformers.

    pooling: settings of 1_Pooling/config.json. transformer: of sentence_bert_config.json. config: of
    config_sentence_transformers.json.
    """
    save_checkpoint(folder, model_type, model)
    modules = [("", "Transformer"), ("1_Pooling", "Pooling")]
    modes = {"pooling_mode_lasttoken": True} if model_type in DECODERS else {"pooling_mode_mean_tokens": True}
    write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": 32} | (pooling or modes))
    if dense is not None:
        from safetensors.torch import save_file

        modules.append(("2_Dense", "Dense"))
        sides = {"in_features": dense.in_features, "out_features": dense.out_features, "bias": dense.bias is not None}
        write_json(folder / "2_Dense" / "config.json", {**sides, "activation_function": activation})
        save_file(
            {f"linear.{name}": tensor.detach() for name, tensor in dense.named_parameters()},
            folder / "2_Dense" / "model.safetensors",
        )
    if normalizes:
        modules.append((f"{len(modules)}_Normalize", "Normalize"))
    listed = [
        {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for index, (path, kind) in enumerate(modules)
    ]
    (folder / "modules.json").write_text(json.dumps(listed))
    write_json(folder / "config_sentence_transformers.json", {"prompts": {}, "default_prompt_name": None} | config)
    write_json(
        folder / "sentence_bert_config.json", {"max_seq_length": 64, "do_lower_case": False} | (transformer or {})
    )
    return folder
