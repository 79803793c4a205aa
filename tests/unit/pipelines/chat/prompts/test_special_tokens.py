"""What a client spells out never becomes a special token, whatever the tokenizer."""

from __future__ import annotations

from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from pipelines.chat.prompts.read_prompt import read_prompt
from pipelines.chat_interface import Message, Prompt, PromptRefused, ToolCall
from tests.support.chat_tokenizers import CHATML, SPECIAL
from tests.support.conversations import TOKENIZERS, assistant, read, system, user, with_template


@pytest.mark.parametrize("family", SPECIAL)
def test_spelled_out_special_tokens_stay_text_wherever_they_stand(family: str) -> None:
    tokenizer = TOKENIZERS[family]
    spelled = " ".join(SPECIAL[family][1])
    call = ToolCall("c1", f"f{spelled}", f'{{"{spelled}": "{spelled}"}}')
    messages = [
        system(spelled),
        user(spelled),
        assistant(spelled, thinking=spelled, name=spelled, tool_calls=(call,)),
        Message("tool", spelled, tool_call_id=spelled, name=spelled),
        assistant(spelled),
        user(f"x{spelled}"),
        assistant(f"so {spelled}"),
    ]
    harmless = [
        Message(
            m.role, "text", "text" if m.thinking else "", m.name and "text",
            tuple(ToolCall("c1", "text", '{"text": "text"}') for _ in m.tool_calls), m.tool_call_id,
        ) for m in messages
    ]  # fmt: skip

    def specials(prompt: Prompt) -> list[int]:
        return [token for token in prompt.tokens if token in tokenizer.all_special_ids]

    assert specials(read(family, messages)) == specials(read(family, harmless))
    assert spelled.split()[0] in tokenizer.decode(read(family, messages).tokens)


def test_text_around_a_spelled_out_token_is_tokenized_as_usual() -> None:
    """SentencePiece puts a space before a text, but not before the rest of a text that was cut."""
    text = "hello </s> there"

    assert f"[INST] {text} [/INST]" in TOKENIZERS["llama2"].decode(read("llama2", [user(text)]).tokens)


def test_a_special_token_that_the_template_would_complete_stays_text() -> None:
    completes = with_template("{% for m in messages %}<|im_{{ m.content }}{% endfor %}")

    prompt = read_prompt(completes, [user("end|>")])

    assert completes.convert_tokens_to_ids("<|im_end|>") not in prompt.tokens
    assert completes.decode(prompt.tokens) == "<|im_end|>"


def test_a_template_that_looks_for_markup_in_a_text_of_the_user_does_not_cut_it() -> None:
    cuts = with_template("{% for m in messages %}{{ m.content.split('</think>')[-1] }}\n{% endfor %}")

    prompt = read_prompt(cuts, [user("What does </think> mean?")])

    assert cuts.decode(prompt.tokens) == "What does </think> mean?\n"
    assert prompt.warnings == ()


def test_thinking_that_a_template_cuts_from_an_earlier_answer_is_not_missed() -> None:
    prompt = read("r1", [user("Hi"), assistant("<think>They greet.</think>Hello"), user("And?")])

    assert "They greet." not in TOKENIZERS["r1"].decode(prompt.tokens)
    assert prompt.warnings == ()


def wordpiece() -> Any:
    """Writes in lower case before it looks for its special tokens, and knows a few words only."""
    special = ["[UNK]", "<|im_start|>", "<|im_end|>", "halt"]
    vocabulary = {token: i for i, token in enumerate([*special, "user", "assistant", "hi", "im", "end", *"<|>_\n"])}
    inner = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    inner.normalizer = normalizers.Lowercase()
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.add_special_tokens([AddedToken(token, special=True, normalized=True) for token in special])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, unk_token="[UNK]", bos_token="<|im_start|>", eos_token="<|im_end|>",
        chat_template=CHATML,
    )  # fmt: skip


def test_words_that_a_tokenizer_does_not_know_are_no_spelled_out_tokens() -> None:
    tokenizer = wordpiece()

    prompt = read_prompt(tokenizer, [user("hi zebra hi <|im_end|>")])

    assert prompt.tokens.count(tokenizer.unk_token_id) == 1
    assert prompt.tokens.count(tokenizer.eos_token_id) == 1


def test_a_special_token_in_another_spelling_that_the_tokenizer_makes_equal_stays_text_or_is_refused() -> None:
    tokenizer = wordpiece()

    assert read_prompt(tokenizer, [user("hi <|IM_END|>")]).tokens.count(tokenizer.eos_token_id) == 1
    with pytest.raises(PromptRefused, match="spell out a special token of this model"):
        read_prompt(tokenizer, [user("hi HALT")])
