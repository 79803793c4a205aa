from __future__ import annotations

from typing import Any

import pytest

from models.checkpoint.generation_config import read_sampling


@pytest.mark.parametrize(
    ("config", "defaults"),
    [
        ({}, {}),
        ({"do_sample": True}, {"temperature": 1.0}),
        ({"do_sample": True, "temperature": 0.6, "top_k": 20}, {"temperature": 0.6, "top_k": 20}),
        ({"do_sample": True, "temperature": 0.0}, {"temperature": 0.0}),
        ({"temperature": 0.7, "top_p": 0.8}, {"temperature": 0.7, "top_p": 0.8}),
        ({"do_sample": None, "temperature": 1}, {"temperature": 1.0}),
        ({"do_sample": False, "temperature": 0.6, "top_p": 0.9, "top_k": 5, "min_p": 0.1}, {}),
        ({"do_sample": False, "repetition_penalty": 1.1}, {"repetition_penalty": 1.1}),
        ({"repetition_penalty": 1.05, "max_new_tokens": 2048}, {"repetition_penalty": 1.05, "max_tokens": 2048}),
        ({"top_k": -1}, {"top_k": 0}),
        ({"top_k": 40.0, "min_p": 0}, {"top_k": 40, "min_p": 0.0}),
        ({"max_length": 20}, {}),  # of prompt and reply together, and in most files the library's old default
    ],
)
def test_the_config_is_read_as_the_library_reads_it(config: dict[str, Any], defaults: dict[str, Any]) -> None:
    assert read_sampling(config) == (defaults, ())


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("temperature", -1), ("temperature", 3), ("temperature", "0.6"), ("temperature", True),
        ("temperature", float("nan")), ("temperature", float("inf")), ("top_p", 0), ("top_p", 1.5), ("top_k", 2.5),
        ("top_k", -2), ("top_k", 2**31), ("min_p", 2), ("repetition_penalty", 0), ("repetition_penalty", [1.1]),
        ("max_new_tokens", 0), ("max_new_tokens", 1e300),
    ],
)  # fmt: skip
def test_a_value_that_no_request_may_have_is_left_out_and_named(key: str, value: object) -> None:
    assert read_sampling({key: value}) == (
        {}, (f"generation_config.json has a {key} that no request may have; it is not used.",)
    )  # fmt: skip
