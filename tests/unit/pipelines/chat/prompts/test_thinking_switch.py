"""How a reply begins and ends in the prompt, and how much the model is told to think."""

from __future__ import annotations

import pytest

from pipelines.chat.prompts.read_prompt import end_of_turn_tokens, read_prompt
from pipelines.chat_interface import PromptOptions
from tests.support.conversations import TOKENIZERS, assistant, read, system, text_of, user, with_template


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
