"""A tokenizer that writes tokens for which its model has no embedding is refused before the device sees one."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from models.errors import BadModel
from models.loading.vocabulary_check import check_vocabularies, check_vocabulary
from tests.support.lanes.stock_families import FAMILIES
from tests.support.lanes.tiny_chat import tiny_model, tiny_tokenizer


def test_the_tokenizers_of_a_sound_pipeline_pass() -> None:
    assert check_vocabularies(FAMILIES["sd3"].build()) == []


def test_a_pipeline_whose_vocabulary_is_larger_than_the_embeddings_is_refused() -> None:
    pipeline = FAMILIES["sdxl"].build()
    pipeline.text_encoder_2.resize_token_embeddings(pipeline.tokenizer_2.vocab_size - 1)

    with pytest.raises(BadModel, match=r"tokenizer_2 has \d+ tokens, its model has embeddings for \d+"):
        check_vocabularies(pipeline)


def test_a_token_that_ends_every_prompt_has_to_have_an_embedding() -> None:
    pipeline = FAMILIES["sd15"].build()
    pipeline.tokenizer.add_special_tokens({"eos_token": "<another>"})

    with pytest.raises(BadModel, match="tokenizer: its eos_token is number"):
        check_vocabularies(pipeline)


@pytest.mark.parametrize("length", [None, "", int(1e30), 1000])
def test_a_prompt_may_not_be_padded_beyond_the_positions_of_clip(length: object) -> None:
    pipeline = FAMILIES["sd15"].build()
    pipeline.tokenizer.model_max_length = length

    with pytest.raises(BadModel, match=r"tokenizer: tokenizer_config\.json sets no model_max_length"):
        check_vocabularies(pipeline)


def test_an_added_token_beyond_the_embeddings_is_told() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["[UNTRAINED]"])

    (note,) = check_vocabulary("the tokenizer", tokenizer, tiny_model())

    assert note == "the tokenizer has 1 token for which its model has no embedding."


def test_a_module_that_does_not_tell_its_embeddings_is_left_alone() -> None:
    assert check_vocabulary("tokenizer", SimpleNamespace(vocab_size=10), torch.nn.Linear(2, 2)) == []
