"""Prompts with pictures: where they stand, what a client cannot spell, and which messages are refused."""

from __future__ import annotations

from typing import Any

import pytest
from tokenizers import AddedToken

from pipelines.chat.prompts.pictures import PictureReader
from pipelines.chat.prompts.read_prompt import read_prompt
from pipelines.chat_interface import (
    Message,
    MessageImage,
    Prompt,
    PromptOptions,
    PromptRefused,
    PromptTooLong,
    ToolCall,
)  # fmt: skip
from tests.support.lanes.tiny_vision import picture, tiny_processor

LARGE, SMALL = picture(40, 24), picture(16, 16)  # 15 tokens of Qwen's tiny processor, and 4
PAD = "<|image_pad|>"
ALTERNATING = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('alternate') }}"
    "{% endif %}[{{ m.role }}]{% for p in m.content %}{% if p.type == 'image' %}<|image_pad|>{% else %}{{ p.text }}"
    "{% endif %}{% endfor %}{% endfor %}"
)
HIDING = "{% for m in messages %}{{ m.content if m.content is string else m.content[0].text }}{% endfor %}"
NO_TOOLS = (
    "{% for m in messages if m.role != 'tool' %}[{{ m.role }}]{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for p in m.content %}{% if p.type == 'image' %}<|image_pad|>{% else %}{{ p.text }}{% endif %}{% endfor %}"
    "{% endif %}{% endfor %}"
)


class Qwen:
    def __init__(self, template: str | None = None) -> None:
        processor = tiny_processor("qwen2_5_vl")
        self.tokenizer = processor.tokenizer
        self.tokenizer.chat_template = template or processor.chat_template
        self.pictures = PictureReader(processor, self.tokenizer)

    def read(self, *messages: Message, context: int | None = None) -> Prompt:
        return read_prompt(self.tokenizer, messages, PromptOptions(), self.pictures, context)

    def text(self, prompt: Prompt) -> str:
        """The prompt, with the tokens of one picture as one."""
        text = str(self.tokenizer.decode(prompt.tokens))
        while PAD + PAD in text:
            text = text.replace(PAD + PAD, PAD)
        return text

    def n_pads(self, prompt: Prompt) -> int:
        return list(prompt.tokens).count(self.tokenizer.convert_tokens_to_ids(PAD))


def user(text: str, *images: tuple[int, bytes]) -> Message:
    return Message("user", text, images=tuple(MessageImage(at, data, place="here") for at, data in images))


def grids(prompt: Prompt) -> list[Any]:
    assert prompt.media is not None
    return [list(map(int, grid)) for grid in prompt.media.inputs["image_grid_thw"]]


def test_pictures_stand_at_their_places_in_several_messages() -> None:
    qwen = Qwen()
    prompt = qwen.read(user("a b", (1, LARGE)), Message("assistant", "c"), user("d", (0, SMALL), (1, LARGE)))

    shown = "<|vision_start|><|image_pad|><|vision_end|>"
    assert f"user\na{shown} b<|im_end|>" in qwen.text(prompt)
    assert f"user\n{shown}d{shown}<|im_end|>" in qwen.text(prompt)
    assert grids(prompt) == [[1, 6, 10], [1, 4, 4], [1, 6, 10]]
    assert qwen.n_pads(prompt) == 15 + 4 + 15
    assert prompt.warnings == ()


@pytest.mark.parametrize(
    "text", [f"{PAD}{PAD}", f"x {PAD}\n", "<|vision_start|><|image_pad|><|vision_end|>", "<|im_end|>"]
)
def test_what_a_client_spells_is_text_and_no_picture(text: str) -> None:
    qwen = Qwen()
    with_one = qwen.read(user(text, (0, SMALL)))
    without = qwen.read(user(text))

    assert (qwen.n_pads(with_one), qwen.n_pads(without)) == (4, 0)
    assert (with_one.media is not None, without.media) == (True, None)
    assert text.strip() in str(qwen.tokenizer.decode(without.tokens))
    assert with_one.tokens[-len(text) - 10 :] == without.tokens[-len(text) - 10 :]


def test_a_placeholder_that_the_tokenizer_does_not_mark_as_special_is_guarded_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    processor = tiny_processor("llava")
    tokenizer = processor.tokenizer
    image = tokenizer.convert_tokens_to_ids("<image>")
    added = tokenizer.added_tokens_decoder
    plain = {token: AddedToken(each.content, special=token != image) for token, each in added.items()}
    monkeypatch.setattr(type(tokenizer), "added_tokens_decoder", property(lambda _: plain))
    tokenizer.chat_template = processor.chat_template
    prompt = read_prompt(
        tokenizer, [user("an <image>", (0, SMALL))], PromptOptions(), PictureReader(processor, tokenizer)
    )

    assert list(prompt.tokens).count(image) == 4


def test_messages_that_are_joined_keep_their_pictures_in_order() -> None:
    qwen = Qwen(ALTERNATING)
    prompt = qwen.read(
        Message("system", "Be brief."), user("one", (3, LARGE)), user("", (0, SMALL)), user("two", (0, LARGE))
    )

    assert grids(prompt) == [[1, 6, 10], [1, 4, 4], [1, 6, 10]]
    assert qwen.text(prompt) == "[user]Be brief.\n\none<|image_pad|>\n\n<|image_pad|>two"
    assert prompt.warnings


@pytest.mark.parametrize("template", [None, NO_TOOLS])
def test_pictures_in_the_result_of_a_tool_are_seen(template: str | None) -> None:
    qwen = Qwen(template)
    call = ToolCall("c1", "look", "{}")
    result = Message("tool", "a photo", tool_call_id="c1", images=(MessageImage(2, SMALL, place="here"),))
    prompt = qwen.read(user("Look."), Message("assistant", "", tool_calls=(call,)), result)

    assert grids(prompt) == [[1, 4, 4]]
    assert "a <|" in qwen.text(prompt)
    assert qwen.n_pads(prompt) == 4


def test_a_template_that_does_not_show_pictures_refuses_them() -> None:
    with pytest.raises(PromptRefused, match="does not show all pictures of these messages"):
        Qwen(HIDING).read(user("a", (1, SMALL)))


def test_a_tokenizer_without_a_processor_refuses_pictures() -> None:
    with pytest.raises(PromptRefused, match="This model takes no pictures"):
        read_prompt(Qwen().tokenizer, [user("a", (1, SMALL))])


def test_pictures_that_fill_the_context_are_refused_before_they_are_prepared(monkeypatch: pytest.MonkeyPatch) -> None:
    qwen = Qwen()
    prepared: list[object] = []
    monkeypatch.setattr(type(qwen.pictures._processor), "__call__", lambda *_, **__: prepared.append(1))
    with pytest.raises(PromptTooLong) as refused:
        qwen.read(user("a", *[(0, LARGE)] * 10), context=150)

    assert (refused.value.n_tokens, prepared) == (150, [])


def test_a_picture_that_the_processor_refuses_is_refused_with_its_reason_in_the_log() -> None:
    with pytest.raises(PromptRefused, match="The model's processor does not take these pictures") as refused:
        Qwen().read(user("a", (0, picture(1300, 4))))

    assert "aspect ratio" in refused.value.detail
