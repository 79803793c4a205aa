"""Which format a model's replies have, and whole replies from tokens to sections."""

from __future__ import annotations

from typing import Any

import pytest
from tokenizers import AddedToken

from pipelines.chat.replies.channels import ChannelFormat
from pipelines.chat.replies.detokenize import Detokenizer
from pipelines.chat.replies.reply_format import PlainFormat
from pipelines.chat.replies.reply_text import ReplyText
from pipelines.chat.replies.sections import reply_format
from pipelines.chat.replies.thinking_tags import TagFormat
from tests.support.section_samples import HARMONY, HARMONY_TOKENS, PLAIN, QWEN3, R1, Seen, read, tokenizer
from tests.support.tokenizer_kinds import byte_level_bpe


def test_a_model_that_is_not_known_to_think_replies_with_content_only() -> None:
    plain = reply_format(tokenizer(PLAIN))
    assert isinstance(plain, PlainFormat)
    assert read(plain, "<|im_start|>assistant\n", " <think>a</think>\n") == Seen("", " <think>a</think>\n")
    assert (plain.closing, plain.without_thinking("<|im_start|>assistant\n")) == (None, None)


@pytest.mark.parametrize("template", [None, {}, {"default": PLAIN}, [PLAIN], 3])
def test_a_tokenizer_without_a_usable_template_has_a_plain_format(template: object) -> None:
    assert isinstance(reply_format(tokenizer(template)), PlainFormat)


def test_one_of_several_templates_may_name_the_tags() -> None:
    assert isinstance(reply_format(tokenizer({"default": QWEN3})), TagFormat)


def test_a_template_that_raises_still_names_its_tags() -> None:
    found = reply_format(tokenizer("{{ raise_exception('no') }}<think>"))
    assert read(found, "Reply:<think>", "a</think>b") == Seen("a", "b", ("</think>",))


def test_channels_are_known_by_the_template_or_the_tokens() -> None:
    assert isinstance(reply_format(tokenizer(HARMONY)), ChannelFormat)
    assert isinstance(reply_format(tokenizer(PLAIN, special=HARMONY_TOKENS)), ChannelFormat)
    assert isinstance(reply_format(tokenizer(PLAIN, special=["<|message|>", "<|end|>"])), PlainFormat)


@pytest.mark.parametrize(
    ("template", "special", "plain", "reply"),
    [
        (R1, ["<|User|>", "<|Assistant|>"], ["<think>", "</think>"], "They greet me.\n</think>\n\nHello there!"),
        (R1, ["<|User|>", "<|Assistant|>"], [], "They greet me.\n</think>\n\nHello there!"),
        (QWEN3, ["<|im_start|>"], ["<think>", "</think>"], "<think>\nThey greet me.\n</think>\n\nHello there!"),
        (QWEN3, ["<think>", "</think>"], [], "<think>\nThey greet me.\n</think>\n\nHello there!"),
        (
            HARMONY,
            HARMONY_TOKENS,
            [],
            "<|channel|>analysis<|message|>They greet me.<|end|><|channel|>final<|message|>Hello there!",
        ),
    ],
    ids=["R1", "R1 without tokens", "Qwen 3", "special tags", "gpt-oss"],
)
def test_tokens_become_thinking_and_content(template: str, special: list[str], plain: list[str], reply: str) -> None:
    made: Any = byte_level_bpe()
    made.add_tokens([AddedToken(token, special=True, normalized=False) for token in special], special_tokens=True)
    made.add_tokens([AddedToken(token, special=False, normalized=False) for token in plain])
    made.chat_template = template
    opening = made.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True)
    text = ReplyText(Detokenizer(made).stream(), reply_format(made).reader(opening), ["</s>"])
    for token in made.encode(reply + "</s>not shown", add_special_tokens=False):
        text.push(token)
    text.finish()
    assert (text.thinking, text.text, text.stopped) == ("They greet me.", "Hello there!", True)
