"""Messages become a prompt whatever the template's rules: nothing is lost silently, nothing becomes a special token."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from pipelines.chat.prompts.read_prompt import end_of_turn_tokens, read_prompt
from pipelines.chat_interface import Message, Prompt, PromptOptions, PromptRefused, ToolCall
from tests.support.chat_tokenizers import CHATML, SPECIAL, chat_tokenizer

TOKENIZERS = {family: chat_tokenizer(family) for family in SPECIAL}
WEATHER = ToolCall("call_1", "weather", '{"city": "Paris"}')
TIME = ToolCall("call_2", "time", '{"zone": "CET"}')


def user(text: str) -> Message:
    return Message("user", text)


def assistant(text: str, **more: Any) -> Message:
    return Message("assistant", text, **more)


def system(text: str) -> Message:
    return Message("system", text)


def result(text: str, of: str = "call_1") -> Message:
    return Message("tool", text, tool_call_id=of)


def read(family: str, messages: Sequence[Message], **options: Any) -> Prompt:
    return read_prompt(TOKENIZERS[family], messages, PromptOptions(**options))


def text_of(family: str, messages: Sequence[Message], **options: Any) -> str:
    """The prompt as text, without the space that some tokenizers write behind a special token."""
    text = str(TOKENIZERS[family].decode(read(family, messages, **options).tokens))
    return re.sub(r"(<start_of_turn>|<end_of_turn>|\[INST\]|\[/INST\]|\[TOOL_CALLS\]|\[TOOL_RESULTS\]) ", r"\1", text)


def refusal(family: str, messages: Sequence[Message], **options: Any) -> str:
    with pytest.raises(PromptRefused) as error:
        read(family, messages, **options)
    return error.value.message


def with_template(template: str, family: str = "chatml") -> Any:
    tokenizer = chat_tokenizer(family)
    tokenizer.chat_template = template
    return tokenizer


# Forms


@pytest.mark.parametrize("family", SPECIAL)
def test_a_plain_conversation_is_rendered_as_the_library_renders_it_without_warnings(family: str) -> None:
    messages = [user("Hi"), assistant("Hello"), user("Tell me more")]
    parts = family == "parts only"
    turns = [
        {"role": m.role, "content": [{"type": "text", "text": m.content}] if parts else m.content} for m in messages
    ]
    expected = TOKENIZERS[family].apply_chat_template(turns, add_generation_prompt=True, return_dict=False)

    prompt = read(family, messages)

    assert list(prompt.tokens) == expected
    assert prompt.warnings == ()


def test_a_system_prompt_becomes_a_part_of_the_first_user_turn_where_the_template_refuses_it() -> None:
    prompt = read("gemma", [system("Be brief."), user("Hi")])

    assert "user\nBe brief.\n\nHi" in TOKENIZERS["gemma"].decode(prompt.tokens)
    (warning,) = prompt.warnings
    assert warning.startswith("System messages were put before the next message of the user, because")


def test_a_system_prompt_is_left_where_it_is_when_the_template_knows_it() -> None:
    assert read("llama2", [system("Be brief."), user("Hi")]).warnings == ()
    assert "<<SYS>>\nBe brief.\n<</SYS>>" in text_of("llama2", [system("Be brief."), user("Hi")])


def test_later_system_messages_go_to_the_next_user_turn_and_the_first_one_stays() -> None:
    messages = [system("Be brief."), user("Hi"), assistant("Hello"), system("Be kind."), user("And?")]

    assert "[INST] Be brief.\n\nBe kind.\n\nAnd?[/INST]" in text_of("mistral", messages)
    assert "system\nBe brief." in text_of("qwen3", messages)
    assert "user\nBe kind.\n\nAnd?" in text_of("qwen3", messages)


def test_a_system_message_that_no_user_follows_is_a_turn_of_the_user() -> None:
    assert "user\nBe brief.<end_of_turn>" in text_of("gemma", [system("Be brief.")])
    assert "Hi\n\nBe brief. [/INST]" in text_of("llama2", [user("Hi"), system("Be brief.")])


@pytest.mark.parametrize("family", ["gemma", "mistral", "llama2"])
def test_consecutive_messages_of_one_role_are_joined_where_roles_must_alternate(family: str) -> None:
    messages = [user("Hi"), user("And?"), assistant("Well"), assistant("yes"), user("Go on")]

    text, prompt = text_of(family, messages), read(family, messages)

    assert "Hi\n\nAnd?" in text
    assert "Well\n\nyes" in text
    (warning,) = prompt.warnings
    assert warning.startswith("Consecutive messages of one role were joined, because")


def test_system_prompt_and_consecutive_roles_are_mended_together() -> None:
    messages = [system("Be brief."), user("Hi"), user("And?")]

    assert "user\nBe brief.\n\nHi\n\nAnd?<end_of_turn>" in text_of("gemma", messages)
    assert len(read("gemma", messages).warnings) == 2


def test_content_becomes_a_list_of_parts_for_a_template_that_wants_one() -> None:
    prompt = read("parts only", [user("Hi")])

    assert TOKENIZERS["parts only"].decode(prompt.tokens).startswith("<|im_start|>user\nHi<|im_end|>")
    assert prompt.warnings == ()


def test_a_message_that_a_template_drops_silently_is_handed_to_it_in_another_form() -> None:
    drops_systems = with_template(
        "{% for m in messages if m.role != 'system' %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}"
    )

    prompt = read_prompt(drops_systems, [system("Be brief."), user("Hi")])

    assert drops_systems.decode(prompt.tokens) == "user: Be brief.\n\nHi\n"


def test_a_message_that_a_template_drops_in_every_form_is_named_in_a_warning() -> None:
    only_the_last = with_template("{{ messages[-1].content }}")

    prompt = read_prompt(only_the_last, [user("one"), assistant("two"), user("three")])

    assert only_the_last.decode(prompt.tokens) == "three"
    assert prompt.warnings == (
        "The model's chat template left out or changed a part of a message of the user.",
        "The model's chat template left out or changed a part of a message of the assistant.",
    )


# Tools

WITH_TOOLS = [user("Weather?"), assistant("", tool_calls=(WEATHER,)), result("42")]


def test_calls_and_results_are_handed_to_a_template_that_knows_them() -> None:
    assert read("qwen3", WITH_TOOLS).warnings == ()
    assert '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>' in (
        text_of("qwen3", WITH_TOOLS)
    )
    assert "<tool_response>\n42\n</tool_response>" in text_of("qwen3", WITH_TOOLS)


def test_arguments_are_handed_over_as_text_to_a_template_that_wants_it() -> None:
    assert '<|sep|>weather\n```json\n{"city": "Paris"}\n```' in text_of("r1", WITH_TOOLS)
    assert read("r1", WITH_TOOLS).warnings == ()


def test_a_template_that_would_write_an_object_as_python_does_gets_text() -> None:
    prints = with_template(
        "{% for m in messages %}{{ m.content }}{% for c in m.tool_calls or [] %}"
        "{{ c.function.name }}: {{ c.function.arguments }}{% endfor %}{% endfor %}"
    )

    assert prints.decode(read_prompt(prints, WITH_TOOLS).tokens) == 'Weather?weather: {"city": "Paris"}42'


def test_ids_of_calls_get_the_form_that_mistral_takes() -> None:
    text = text_of("mistral", WITH_TOOLS)

    (called,), (answered,) = re.findall('"id": "(.*?)"', text), re.findall('"call_id": "(.*?)"', text)
    assert called == answered
    assert re.fullmatch("[a-zA-Z0-9]{9}", called)
    assert read("mistral", WITH_TOOLS).warnings == ()


@pytest.mark.parametrize("family", ["chatml", "gemma", "llama2"])
def test_calls_and_results_become_text_where_the_template_does_not_know_them(family: str) -> None:
    text = text_of(family, WITH_TOOLS)

    assert 'Called weather with {"city": "Paris"}' in text
    assert "Result of weather: 42" in text
    (warning,) = read(family, WITH_TOOLS).warnings
    assert warning.startswith("Tool calls and their results were written out as text, because")


def test_text_beside_a_call_is_a_message_of_its_own_where_the_template_would_drop_it() -> None:
    text = text_of("llama3", [user("Hi"), assistant("Let me see.", tool_calls=(WEATHER,)), result("42")])

    before, _, call = text.partition("Let me see.<|eot_id|>")
    assert before.endswith("assistant<|end_header_id|>\n\n")
    assert '{"name": "weather", "parameters": {"city": "Paris"}}' in call


@pytest.mark.parametrize("family", ["llama3", "harmony"])
def test_each_of_several_calls_stands_before_its_own_result_where_a_message_may_have_only_one(family: str) -> None:
    calls = assistant("", tool_calls=(WEATHER, TIME))

    text = text_of(family, [user("Hi"), calls, result("13", "call_2"), result("42", "call_1")])

    places = [text.index(part) for part in ("CET", "13", "Paris", "42")]
    assert places == sorted(places)


def test_gpt_oss_gets_thinking_with_the_call_and_content_apart() -> None:
    calls = assistant("Let me see.", thinking="They ask.", tool_calls=(WEATHER,))

    text = text_of("harmony", [user("Hi"), calls, result("42")])

    assert "<|channel|>final<|message|>Let me see.<|end|>" in text
    assert "<|channel|>analysis<|message|>They ask.<|end|>" in text


def test_a_result_without_its_call_is_not_lost() -> None:
    for family in SPECIAL:
        assert "42" in text_of(family, [user("Hi"), assistant("Yes"), result("42", "unknown"), user("And?")])


@pytest.mark.parametrize("arguments", ["", "{}", "[1, 2]", "no JSON", '{"a": {"b": [true, null, "deep"]}}', "{" * 5000])
def test_arguments_of_any_kind_are_taken(arguments: str) -> None:
    messages = [user("Hi"), assistant("", tool_calls=(ToolCall("c1", "weather", arguments),)), result("42", "c1")]

    for family in SPECIAL:
        assert "weather" in text_of(family, messages)


# Refusals


def test_the_templates_own_reason_is_in_the_refusal() -> None:
    never = with_template("{{ raise_exception('Only\n pictures, please\x1b') }}")

    with pytest.raises(PromptRefused) as error:
        read_prompt(never, [user("Hi")])

    assert error.value.message == "This model's chat template refuses these messages: Only pictures, please"


def test_a_reason_repeats_nothing_that_the_client_wrote() -> None:
    repeats = with_template("{{ raise_exception('I dislike ' + messages[0].content + ' and ' + mood) }}")

    with pytest.raises(PromptRefused) as error:
        read_prompt(repeats, [user("secrets")], PromptOptions(template_variables={"mood": "gloom"}))

    assert error.value.message == "This model's chat template refuses these messages: I dislike … and …"


def test_a_reason_that_depends_on_the_text_is_told_only_if_it_stands_in_the_template() -> None:
    picky = with_template(
        "{% set text = messages[0].content | string %}{{ text }}"
        "{% if 'red' in text %}{{ raise_exception('No colours') }}{% endif %}"
        "{% if 'two' in text %}{{ raise_exception('Not ' + text) }}{% endif %}"
    )

    with pytest.raises(PromptRefused, match="refuses these messages: No colours"):
        read_prompt(picky, [user("red")])
    with pytest.raises(PromptRefused) as error:
        read_prompt(picky, [user("two")])
    assert "two" not in error.value.message


def test_a_long_reason_is_cut() -> None:
    talks = with_template("{{ raise_exception('why ' * 1000) }}")

    with pytest.raises(PromptRefused) as error:
        read_prompt(talks, [user("Hi")])

    assert len(error.value.message) < 300


@pytest.mark.parametrize("template", ["{{ messages[7].content }}{{ 1 / 0 }}", "{% for %}", "{{ nothing.at.all }}"])
def test_a_template_that_fails_is_a_refusal_without_the_text_of_the_library(template: str) -> None:
    with pytest.raises(PromptRefused) as error:
        read_prompt(with_template(template), [user("Hi")])

    assert error.value.message == "This model's chat template fails on these messages."
    assert error.value.detail


def test_no_messages_and_no_template_are_refusals() -> None:
    assert refusal("chatml", []) == "There are no messages."
    for missing in (None, "", {}):
        with pytest.raises(PromptRefused, match="has no chat template"):
            read_prompt(with_template(missing), [user("Hi")])  # type: ignore[arg-type]


def test_messages_of_which_no_token_is_left_are_refused() -> None:
    assert "empty prompt" in refusal("llama2", [system("")])


def test_of_several_templates_the_one_for_plain_chats_is_taken() -> None:
    several = with_template({"tool_use": "tools", "default": "plain"})  # type: ignore[arg-type]

    assert several.decode(read_prompt(several, [user("Hi")]).tokens) == "plain"


def test_half_of_a_surrogate_pair_is_refused() -> None:
    assert refusal("chatml", [user("\ud83d")]) == "The messages contain characters that are no text."


# Continued messages


@pytest.mark.parametrize("family", SPECIAL)
def test_a_last_message_of_the_assistant_is_continued(family: str) -> None:
    messages = [user("Name the primary colours."), assistant("The three primary colours are red,")]

    text = text_of(family, messages)

    assert text.endswith("The three primary colours are red,")
    assert text_of(family, messages, continues=True) == text
    assert read(family, messages).opening.endswith("The three primary colours are red,")
    again = text_of(family, messages, continues=False)
    assert not again.endswith("red,")
    assert "The three primary colours are red," in again


def test_white_space_of_a_continued_message_is_kept_where_the_template_would_trim_it() -> None:
    assert text_of("gemma", [user("Hi"), assistant("  1. ")]).endswith("model\n  1. ")


def test_an_empty_message_of_the_assistant_begins_the_reply() -> None:
    assert text_of("chatml", [user("Hi"), assistant("")]) == text_of("chatml", [user("Hi")])


def test_a_message_that_is_not_the_assistants_cannot_be_continued() -> None:
    assert "continue_final_message needs a last message of the assistant; the last one is of the user" in (
        refusal("chatml", [user("Hi")], continues=True)
    )
    assert "calls tools" in refusal("qwen3", WITH_TOOLS[:2], continues=True)


def test_a_message_that_calls_tools_is_not_continued_unasked() -> None:
    assert text_of("qwen3", WITH_TOOLS[:2]).endswith("<|im_start|>assistant\n")


def test_a_template_that_drops_the_last_message_cannot_continue_it() -> None:
    drops = with_template("{% for m in messages %}{{ m.content if m.role == 'user' else '' }}{% endfor %}")

    with pytest.raises(PromptRefused, match="rewrites the last message, so that it cannot be continued"):
        read_prompt(drops, [user("Hi"), assistant("Well")])


def test_consecutive_messages_of_the_assistant_are_continued_at_the_last() -> None:
    assert text_of("gemma", [user("Hi"), assistant("Well"), assistant("yes, ")]).endswith("model\nWell\n\nyes, ")


@pytest.mark.parametrize("family", ["r1", "qwen3"])
@pytest.mark.parametrize("begun", ["<think>\nThey", "<think>\nThey greet.\n</think>\n\nHello"])
def test_a_continued_message_that_brings_its_own_thinking_gets_no_second_block(family: str, begun: str) -> None:
    prompt = read(family, [user("Hi"), assistant(begun)])

    assert TOKENIZERS[family].decode(prompt.tokens).endswith(begun)
    assert prompt.opening.count("<think>") == 1


def test_thinking_of_a_continued_message_stands_before_it() -> None:
    assert text_of("qwen3", [user("Hi"), assistant("Hello", thinking="They greet.")]).endswith(
        "<think>\nThey greet.\n</think>\n\nHello"
    )


# Special tokens


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


# Openings, ends, thinking


@pytest.mark.parametrize(
    ("family", "opening"),
    [
        ("gemma", "<end_of_turn>\n<start_of_turn>model\n"),
        ("r1", "<|Assistant|><think>\n"),
        ("qwen3", "<|im_end|>\n<|im_start|>assistant\n"),
        ("harmony", "<|end|><|start|>assistant"),
    ],
)
def test_the_opening_is_what_stands_behind_the_last_message_of_the_user(family: str, opening: str) -> None:
    assert read(family, [system("Be brief."), user("Hi")]).opening == opening
    assert read(family, [user("Hi"), assistant("Well"), user("<|im_end|>")]).opening == opening


@pytest.mark.parametrize(
    ("family", "end"),
    [
        ("gemma", "<end_of_turn>"),
        ("mistral", "</s>"),
        ("llama2", "</s>"),
        ("llama3", "<|eot_id|>"),
        ("chatml", "<|im_end|>"),
        ("r1", "<|end|>"),
        ("parts only", "<|im_end|>"),
    ],
)
def test_the_end_of_a_turn_is_the_special_token_behind_an_answer(family: str, end: str) -> None:
    tokenizer = TOKENIZERS[family]

    assert end_of_turn_tokens(tokenizer) == {tokenizer.convert_tokens_to_ids(end)}


@pytest.mark.parametrize(
    "template", [None, "{{ messages[-1].content }}", "{{ raise_exception('no') }}", "{% for %}", "Hi <|im_end|>"]
)
def test_the_end_of_a_turn_is_unclear_where_no_special_token_follows_an_answer(template: str | None) -> None:
    assert end_of_turn_tokens(with_template(template)) == frozenset()  # type: ignore[arg-type]


def test_the_end_of_a_section_of_gpt_oss_is_no_end_of_a_turn() -> None:
    assert end_of_turn_tokens(TOKENIZERS["harmony"]) == frozenset()


def test_a_template_with_a_switch_is_told_not_to_think() -> None:
    assert read("qwen3", [user("Hi")], effort="none").opening.endswith("<think>\n\n</think>\n\n")
    assert "<think>" not in read("qwen3", [user("Hi")], effort="high").opening


def test_a_model_without_a_switch_gets_an_empty_block_of_thinking() -> None:
    assert read("r1", [user("Hi")], effort="none").opening == "<|Assistant|><think>\n\n</think>\n\n"
    assert text_of("r1", [user("Hi")], effort="none").endswith("<think>\n\n</think>\n\n")


@pytest.mark.parametrize("variables", [{"enable_thinking": False}, {"thinking": False}, {"thinking_budget": 0}])
def test_every_name_of_the_switch_works_on_a_model_without_one(variables: dict[str, object]) -> None:
    assert read("r1", [user("Hi")], template_variables=variables).opening.endswith("</think>\n\n")


def test_a_variable_of_the_client_wins_over_the_effort() -> None:
    assert (
        "<think>"
        not in read("qwen3", [user("Hi")], effort="none", template_variables={"enable_thinking": True}).opening
    )
    assert "Reasoning: low" in text_of(
        "harmony", [user("Hi")], effort="high", template_variables={"reasoning_effort": "low"}
    )


@pytest.mark.parametrize(
    ("effort", "said"), [(None, "medium"), ("minimal", "low"), ("low", "low"), ("medium", "medium"), ("high", "high")]
)
def test_the_effort_is_one_that_the_template_knows(effort: str | None, said: str) -> None:
    assert f"Reasoning: {said}<|end|>" in text_of("harmony", [user("Hi")], effort=effort)


def test_a_model_that_does_not_think_takes_any_effort_and_says_that_it_changes_nothing() -> None:
    for effort in (None, "none", "minimal", "low", "medium", "high"):
        assert text_of("chatml", [user("Hi")], effort=effort) == text_of("chatml", [user("Hi")])
        warned = read("chatml", [user("Hi")], effort=effort).warnings
        assert len(warned) == (effort not in (None, "none"))


@pytest.mark.parametrize("family", ["qwen3", "r1", "harmony"])
def test_a_model_that_thinks_takes_an_effort_without_a_warning(family: str) -> None:
    assert read(family, [user("Hi")], effort="low").warnings == ()


@pytest.mark.parametrize(
    ("family", "effort", "limit"),
    [
        ("qwen3", "low", 1024),
        ("qwen3", "high", None),
        ("qwen3", None, None),
        ("qwen3", "none", 0),
        ("r1", "minimal", 256),
        ("harmony", "low", None),
        ("harmony", "none", 0),
    ],
)
def test_an_effort_limits_the_tokens_where_the_template_has_no_steps(
    family: str, effort: str | None, limit: int | None
) -> None:
    assert read(family, [user("Hi")], effort=effort).max_thinking_tokens == limit


def test_an_effort_is_seen_by_a_template_that_names_its_own_steps() -> None:
    mistral = with_template(
        "{% if reasoning_effort not in ['none', 'high'] %}{{ raise_exception('none or high') }}{% endif %}"
        "{{ reasoning_effort + messages[0].content }}"
    )

    said = {
        effort: mistral.decode(read_prompt(mistral, [user("!")], PromptOptions(effort=effort)).tokens)  # type: ignore[arg-type]
        for effort in ("none", "minimal", "low", "medium", "high")
    }
    assert said == {"none": "none!", "minimal": "high!", "low": "high!", "medium": "high!", "high": "high!"}


# Other kinds of tokenizers


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
