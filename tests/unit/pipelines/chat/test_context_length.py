from __future__ import annotations

import pytest
from transformers import BloomConfig, DbrxConfig, FalconConfig, GPT2Config, LlamaConfig, MambaConfig, MptConfig

from pipelines.chat.context_length import context_of, context_tokens


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (LlamaConfig(max_position_embeddings=512), 512),
        (GPT2Config(n_positions=300), 300),
        (MptConfig(max_seq_len=640), 640),
        (DbrxConfig(max_seq_len=768), 768),
        (FalconConfig(max_position_embeddings=1024), 1024),
        (BloomConfig(seq_length=2048), 2048),  # as Bloom's own config.json has it
        (BloomConfig(), None),
        (MambaConfig(), None),
    ],
)
def test_the_context_is_found_under_the_name_that_each_config_class_gives_it(
    config: object, expected: int | None
) -> None:
    assert context_of(config) == expected
    assert context_tokens(config.to_dict()) == expected  # type: ignore[attr-defined]


def test_the_context_of_a_model_that_reads_pictures_too_is_in_its_text_config() -> None:
    assert context_tokens({"text_config": {"max_position_embeddings": 4096}, "vision_config": {}}) == 4096


def test_command_r_has_the_context_that_its_maker_names_for_the_whole_model() -> None:
    assert context_tokens({"max_position_embeddings": 8192, "model_max_length": 131072}) == 131072


@pytest.mark.parametrize("value", [None, True, 0, -1, 1e30, int(1e30), "4096", [4096], {}])
def test_a_value_that_is_no_number_of_tokens_is_ignored(value: object) -> None:
    assert context_tokens({"max_position_embeddings": value, "n_ctx": 128}) == 128
    assert context_tokens({"max_position_embeddings": value}) is None
    assert context_tokens({"text_config": value}) is None
