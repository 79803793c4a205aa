"""Raw prompts: the tokenizer's own tokens of a text or those that are given, and where each lies in the text."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.chat.prompts.raw_prompt import read_raw_prompt
from pipelines.chat_interface import Prompt, PromptRefused, RawPrompt
from tests.support.tokenizer_kinds import KINDS, byte_level_bpe, tokenizer_of

TEXTS = ["the server keeps 你好, naïve 😀 a model  in memory", " the queue", "a", "\n\nthe\n server ", "😀😀"]


def read(tokenizer: Any, text: str | tuple[int, ...], **how: Any) -> Prompt:
    return read_raw_prompt(tokenizer, RawPrompt(text=text, **how), len(tokenizer))


def with_marks() -> Any:
    """A tokenizer that begins each text with <s>, as Llama's does."""
    from tokenizers.processors import TemplateProcessing

    tokenizer = byte_level_bpe()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.convert_tokens_to_ids("<s>"))]
    )
    return tokenizer


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", TEXTS)
def test_a_text_has_the_tokens_that_its_tokenizer_gives_it(kind: str, text: str) -> None:
    tokenizer = tokenizer_of(kind)
    for adds in (True, False):
        prompt = read(tokenizer, text, adds_special_tokens=adds)
        expected = tuple(tokenizer.encode(text, add_special_tokens=adds))
        assert prompt.tokens == expected or not expected
        assert (prompt.raw, prompt.text, prompt.offsets) == (True, "", ())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", TEXTS)
def test_the_places_of_tokens_rise_within_the_repeated_text(kind: str, text: str) -> None:
    tokenizer = tokenizer_of(kind)
    prompt = read(tokenizer, text, repeated=True)

    assert len(prompt.offsets) == len(prompt.tokens)
    assert list(prompt.offsets) == sorted(prompt.offsets)
    assert prompt.offsets[0] == 0
    assert prompt.offsets[-1] <= len(prompt.text)
    if tokenizer.is_fast:
        assert prompt.text == text, "what the client sent, whatever the tokenizer normalizes"


def test_each_token_lies_where_its_text_is() -> None:
    tokenizer = byte_level_bpe()
    text = "the server keeps 你好, naïve 😀 a model"
    for prompt in (read(tokenizer, text, repeated=True), read(tokenizer, read(tokenizer, text).tokens, repeated=True)):
        assert prompt.text == text
        ends = [*prompt.offsets[1:], len(text)]
        for token, begin, end in zip(prompt.tokens, prompt.offsets, ends, strict=True):
            own = tokenizer.decode([token])
            assert text[begin:end] in ("", own) or "\ufffd" in own
        assert "".join(text[b:e] for b, e in zip(prompt.offsets, ends, strict=True)) == text


def test_a_token_that_the_tokenizer_adds_takes_no_place_in_the_text_unless_it_is_told_not_to_add_it() -> None:
    tokenizer = with_marks()
    added = read(tokenizer, "the server", repeated=True)
    plain = read(tokenizer, "the server", repeated=True, adds_special_tokens=False)

    assert added.tokens == (tokenizer.convert_tokens_to_ids("<s>"), *plain.tokens)
    assert added.offsets == (0, *plain.offsets)
    assert added.text == plain.text == "the server"


def test_special_tokens_that_a_text_spells_out_are_special_tokens() -> None:
    tokenizer = byte_level_bpe()
    end = tokenizer.convert_tokens_to_ids("</s>")
    prompt = read(tokenizer, "the</s> server", repeated=True)

    assert end in prompt.tokens
    assert prompt.offsets[prompt.tokens.index(end)] == 3
    again = read(tokenizer, prompt.tokens, repeated=True)
    assert (again.text, again.offsets) == (prompt.text, prompt.offsets)


@pytest.mark.parametrize("text", ["", ()])
def test_an_empty_text_becomes_the_token_that_begins_one(text: str | tuple[int, ...]) -> None:
    tokenizer = byte_level_bpe()
    tokenizer.bos_token, tokenizer.eos_token = None, "</s>"
    assert read(tokenizer, text).tokens == (tokenizer.eos_token_id,)
    tokenizer.bos_token = "<s>"
    assert read(tokenizer, text).tokens == (tokenizer.bos_token_id,)
    tokenizer.bos_token = tokenizer.eos_token = None
    with pytest.raises(PromptRefused):
        read(tokenizer, text)


@pytest.mark.parametrize("token", [-1, 100_000])
def test_tokens_that_the_model_does_not_have_are_refused(token: int) -> None:
    with pytest.raises(PromptRefused, match="must be made of tokens of the model: 0 to") as refused:
        read(byte_level_bpe(), (3, token), field="prompt[1]")
    assert refused.value.field == "prompt[1]"


def test_half_of_a_surrogate_pair_is_refused() -> None:
    with pytest.raises(PromptRefused):
        read(byte_level_bpe(), "a\ud800")


@settings(max_examples=60, deadline=None)
@given(text=st.text(max_size=40), kind=st.sampled_from(sorted(KINDS)))
def test_any_text_is_read_with_places_that_rise(text: str, kind: str) -> None:
    tokenizer = tokenizer_of(kind)
    try:
        prompt = read(tokenizer, text, repeated=True)
    except PromptRefused:
        return
    assert prompt.tokens
    assert list(prompt.offsets) == sorted(prompt.offsets)
    assert len(prompt.offsets) == len(prompt.tokens)
    assert prompt.offsets[-1] <= len(prompt.text)
