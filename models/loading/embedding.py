"""Opens an embedding model: its language model without a head, and the layers after the pooling. Device thread only."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from models.embedding_layout import DenseLayout
from models.errors import BadModel, LoadFailed
from models.files.weight_files import variant, weight_files
from models.loading.components import errors_named
from models.loading.read_check import check_is_filled, other_shape, transformers_checked
from models.loading.tokenizer import open_tokenizer
from models.loading.vocabulary_check import check_vocabulary
from models.spec import ModelSpec
from pipelines.embedding.encoder import DenseLayer, Encoder
from pipelines.embedding_interface import TextTokens

MODEL = "the language model"
ONE_HALF_OF = ("t5", "mt5", "umt5")  # of an encoder and a decoder, only the former is read
ALIKE = 1e-6  # spread of a vector's values that differ by rounding alone, relative to the largest


def open_encoder(spec: ModelSpec, path: Path, device: str, dtype: torch.dtype) -> tuple[Encoder, list[str]]:
    """Returns the encoder and sentences about tensors that were left out. Raises `BadModel`."""
    layout = spec.embedding
    assert layout is not None, "a spec with a path was read from its checkpoint"
    tokenizer = open_tokenizer(spec, path)
    model, notes = _open_model(path, dtype)
    notes += check_vocabulary("the tokenizer", tokenizer, model, is_guarded=True)
    dense = [_open_dense(path, layer) for layer in layout.dense]
    encoder = Encoder(
        model, pooling=layout.pooling, pools_prompt=layout.pools_prompt, dense=dense, normalizes=layout.normalizes
    )
    if getattr(model.config, "is_causal", None) is False and not _reads_both_ways(model):
        raise BadModel("its config makes it read texts in both directions, which the installed transformers does not")
    if encoder.dimensions != layout.dimensions:
        raise BadModel(f"its vectors would have {encoder.dimensions} dimensions, by its configs {layout.dimensions}")
    return encoder.eval().requires_grad_(False).to(device), notes


@torch.inference_mode()
def smoke_test_encoder(encoder: Encoder, spec: ModelSpec) -> None:
    """Embeds a few tokens. Raises `LoadFailed` unless the vector is sound."""
    text = TextTokens(tuple(i % encoder.n_embeddings for i in range(1, 8)))
    vector = encoder(*(tensor.to(encoder.device) for tensor in encoder.inputs([text], len(text.tokens))))[0]
    if not torch.isfinite(vector).all():
        problem = "a trial gave no finite numbers"
    elif len(vector) > 1 and float((vector / vector.abs().max()).nan_to_num().std()) < ALIKE:
        problem = "a trial gave a vector of equal numbers"
    else:
        return
    raise LoadFailed(f"The model {spec.name} failed to load: its weights are broken: {problem}.")


def _open_model(path: Path, dtype: torch.dtype) -> tuple[Any, list[str]]:
    from transformers import AutoConfig, AutoModel, AutoModelForTextEncoding

    where: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    with errors_named(MODEL, AutoModel):
        config = AutoConfig.from_pretrained(path, **where)
        auto = AutoModelForTextEncoding if config.model_type in ONE_HALF_OF else AutoModel
        cls: Any = auto._model_mapping[type(config)]
        options: dict[str, Any] = {"use_safetensors": True, "variant": variant([path]), "dtype": dtype, **where}
        if "add_pooling_layer" in inspect.signature(cls.__init__).parameters:
            options["add_pooling_layer"] = False  # it takes the first token into another layer, which nothing reads
        with _without_report(), transformers_checked(MODEL) as notes:
            model = cls.from_pretrained(path, ignore_mismatched_sizes=True, **options)
        check_is_filled(MODEL, model)
    model.config.use_cache = False
    return model, [note for note in notes if "pooler." not in note]


@torch.inference_mode()
def _reads_both_ways(model: Any) -> bool:
    """Whether the first token's state depends on the last token."""
    first, second = (model(input_ids=torch.tensor([[1, 2, last]])).last_hidden_state[0, 0] for last in (3, 4))
    return not torch.equal(first, second)


@contextmanager
def _without_report() -> Iterator[None]:
    """Keeps transformers from writing a table of the tensors that it does not read: `transformers_checked` tells."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _open_dense(path: Path, layout: DenseLayout) -> DenseLayer:
    files = weight_files(path / layout.folder)
    tensors = {name: tensor for file in files for name, tensor in load_file(file).items()}
    shapes: dict[str, tuple[int, ...]] = {"linear.weight": (layout.n_outputs, layout.n_inputs)}
    if layout.has_bias:
        shapes["linear.bias"] = (layout.n_outputs,)
    if set(tensors) != set(shapes):
        raise BadModel(f"{layout.folder} has other tensors than {', '.join(shapes)}")
    for name, shape in shapes.items():
        if tuple(tensors[name].shape) != shape:
            raise BadModel(other_shape(layout.folder, name, tensors[name].shape, shape))
    linear = nn.Linear(layout.n_inputs, layout.n_outputs, bias=layout.has_bias)
    linear.load_state_dict({name.removeprefix("linear."): tensor.float() for name, tensor in tensors.items()})
    activation: nn.Module = getattr(nn, layout.activation)()
    return DenseLayer(linear, activation)
