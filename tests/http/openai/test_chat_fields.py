"""Fields of a chat completion: those that are done, that ask for nothing, and that are refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from server.api.openai.chat_fields import ALIASES, NEUTRAL, NEVER, NOTED, WARNINGS
from server.api.openai.chat_schema import ChatCall, ChatCompletion, read_chat
from server.errors import BadRequest
from server.jobs.request.generate_request import MAX_SEED
from server.service.chat_input import ChatInput

HI = {"role": "user", "content": "Hi"}
PREFILL = [HI, {"role": "assistant", "content": "The colours are red,"}]

# What the page of llama.cpp's server sends with every message.
LLAMA_CPP = {
    "stream": True, "cache_prompt": True, "reasoning_format": "auto", "samplers": [], "temperature": 0.8,
    "dynatemp_range": 0, "dynatemp_exponent": 1, "top_k": 40, "top_p": 0.95, "min_p": 0.05, "typical_p": 1,
    "xtc_probability": 0, "xtc_threshold": 0.1, "repeat_last_n": 64, "repeat_penalty": 1, "presence_penalty": 0,
    "frequency_penalty": 0, "dry_multiplier": 0, "dry_base": 1.75, "dry_allowed_length": 2, "dry_penalty_last_n": -1,
    "max_tokens": -1, "timings_per_token": True, "return_progress": True, "id_slot": -1, "n_probs": 0,
}  # fmt: skip


def call(**fields: Any) -> ChatCall:
    return read_chat({"messages": [HI], **fields})


def read(**fields: Any) -> ChatInput:
    return call(**fields).chat_input


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"max_tokens": 5}, {"max_tokens": 5}),
        ({"max_completion_tokens": 5}, {"max_tokens": 5}),
        ({"max_tokens": 65_535}, {"max_tokens": 65_535}),
        ({"max_tokens": 10**30}, {"max_tokens": 10**30}),
        ({"max_tokens": 5, "max_completion_tokens": 5}, {"max_tokens": 5, "warnings": ()}),
        ({"max_tokens": 5, "max_completion_tokens": -1}, {"max_tokens": 5, "warnings": ()}),
        ({"n_predict": 5}, {"max_tokens": 5}),
        ({"max_tokens": 100.0}, {"max_tokens": 100}),
        ({"seed": 7}, {"seed": 7}),
        ({"seed": MAX_SEED}, {"seed": MAX_SEED}),
        ({"seed": MAX_SEED + 3}, {"seed": 2}),
        ({"seed": -2}, {"seed": MAX_SEED - 1}),
        ({"temperature": 2}, {"temperature": 2}),
        ({"do_sample": False}, {"temperature": 0}),
        ({"top_p": 0}, {"top_p": 1e-9}),
        ({"top_k": 20}, {"top_k": 20}),
        ({"top_k": -1}, {"top_k": 0}),
        ({"top_k": 10**30}, {"top_k": 0}),
        ({"min_p": 0.05}, {"min_p": 0.05}),
        ({"repetition_penalty": 1.1}, {"repetition_penalty": 1.1}),
        ({"repeat_penalty": 1.1}, {"repetition_penalty": 1.1}),
        ({"presence_penalty": -2, "frequency_penalty": 2}, {"presence_penalty": -2, "frequency_penalty": 2}),
        ({"logit_bias": {"50": -100, "7": 1.5}}, {"logit_bias": ((50, -100.0), (7, 1.5))}),
        ({"n": 3}, {"n_choices": 3}),
        ({"logprobs": True}, {"n_logprobs": 0}),
        ({"logprobs": True, "top_logprobs": 20}, {"n_logprobs": 20}),
        ({"stop": "END"}, {"stop": ("END",)}),
        ({"stop": ["a", "", "b"]}, {"stop": ("a", "b")}),
        ({"stop": [f"{n}" for n in range(16)]}, {"stop": tuple(f"{n}" for n in range(16))}),
        ({"stop_token_ids": [1, 2], "min_tokens": 3}, {"stop_tokens": (1, 2), "min_tokens": 3}),
        ({"ignore_eos": True}, {"ignores_end": True}),
        ({"model": "Qwen/Qwen3-0.6B:latest"}, {"model": "Qwen/Qwen3-0.6B:latest"}),
    ],
)
def test_a_field_that_changes_the_answer_is_done(fields: Any, expected: dict[str, Any]) -> None:
    got = read(**fields)

    assert {name: getattr(got, name) for name in expected} == expected


@pytest.mark.parametrize(
    "fields",
    [
        {"max_tokens": -1}, {"max_tokens": None}, {"max_completion_tokens": -1}, {"seed": -1}, {"seed": None},
        {"stop": None}, {"stop": []}, {"stop": ""}, {"stop": [""]}, {"model": ""}, {"logit_bias": {}},
        {"logprobs": False, "top_logprobs": 0}, {"n": None}, {"tools": [], "tool_choice": "auto"}, {"functions": []},
        {"tools": None, "tool_choice": ""}, {"response_format": {"type": "text"}},
        {"stream_options": {"include_usage": True}}, {"best_of": 1}, {"use_beam_search": False}, {"typical_p": 1.0},
        {"mirostat": 0, "mirostat_tau": 5.0}, {"modalities": ["text"], "audio": None}, {"reasoning_effort": "default"},
        {"parallel_tool_calls": True}, {"prediction": {"type": "content", "content": "x"}}, {"user": "anna"},
        {"metadata": {"a": "b"}}, {"guided_json": None, "grammar": "", "bad_words": []}, {"echo": False},
        {"something_new": None}, {"something_new": False}, {"something_new": {}}, {"chat_template_kwargs": {}},
        {"verbosity": "medium"}, {"service_tier": "auto", "store": False}, {"thinking_budget": -1},
    ],
)  # fmt: skip
def test_a_value_that_asks_for_nothing_changes_nothing(fields: Any) -> None:
    assert read(**fields) == read()


def test_all_that_the_page_of_llama_cpp_sends_is_taken() -> None:
    got = read(**LLAMA_CPP)

    assert (got.max_tokens, got.top_k, got.min_p, got.repetition_penalty) == (None, 40, 0.05, 1)
    assert got.warnings == (WARNINGS["repeat_last_n"],)


@pytest.mark.parametrize(
    ("fields", "warning"),
    [
        ({"max_tokens": 5, "max_completion_tokens": 9}, "the smaller one holds"),
        ({"store": True}, "keeps no chat completions"),
        ({"samplers": ["top_k", "temperature"]}, "order of the sampling steps"),
        ({"stream_options": {"continuous_usage_stats": True}}, "once, at the end"),
    ],
)
def test_a_field_that_is_taken_without_its_effect_is_a_warning(fields: Any, warning: str) -> None:
    (said,) = read(**fields).warnings

    assert warning in said


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"modalities": ["text", "audio"]}, "modalities", "modalities is not supported"),
        ({"audio": {"voice": "x"}}, "audio", "audio is not supported"),
        ({"web_search_options": {}}, "web_search_options", "web_search_options is not supported"),
        ({"best_of": 2}, "best_of", "only 1 is"),
        ({"best_of": True}, "best_of", "only 1 is"),
        ({"use_beam_search": True}, "use_beam_search", "is not supported"),
        ({"mirostat": 2}, "mirostat", "only 0 is"),
        ({"typical_p": 0.5}, "typical_p", "only 1 is"),
        ({"skip_special_tokens": False}, "skip_special_tokens", "only true is"),
        ({"verbosity": "low"}, "verbosity", 'only "medium" is'),
        ({"temprature": 1}, "temprature", "did you mean temperature?"),
        ({"something_new": 1}, "something_new", "Unknown field something_new"),
        ({"<b>": 1}, None, "Unknown field name"),
        ({"max_tokens": 0}, "max_tokens", "a whole number of at least 1, or -1 for no limit"),
        ({"max_tokens": -2}, "max_tokens", "max_tokens must be"),
        ({"max_tokens": 1.5}, "max_tokens", "max_tokens must be"),
        ({"max_tokens": "5"}, "max_tokens", "max_tokens must be"),
        ({"max_tokens": True}, "max_tokens", "max_tokens must be"),
        ({"n_predict": 0}, "max_tokens", "max_tokens must be"),
        ({"min_tokens": 6, "max_tokens": 5}, "min_tokens", "at most max_tokens"),
        ({"temperature": 2.1}, "temperature", "a number from 0 to 2"),
        ({"temperature": 10**400}, "temperature", "a number from 0 to 2"),
        ({"top_p": -0.1}, "top_p", "a number from 0 to 1"),
        ({"top_k": -2}, "top_k", "top_k must be"),
        ({"seed": "x"}, "seed", "seed must be a whole number"),
        ({"repetition_penalty": 0}, "repetition_penalty", "above 0"),
        ({"repetition_penalty": 1.1, "repeat_penalty": 1.2}, "repeat_penalty", "is given twice"),
        ({"logit_bias": {"x": 1}}, "logit_bias", "token ids"),
        ({"logit_bias": {"1": 101}}, "logit_bias", "from -100 to 100"),
        ({"logit_bias": {str(n): 1 for n in range(1025)}}, "logit_bias", "at most 1024"),
        ({"n": 0}, "n", "from 1 to 16"),
        ({"n": 17}, "n", "from 1 to 16"),
        ({"n": True}, "n", "from 1 to 16"),
        ({"top_logprobs": 3}, "top_logprobs", "requires logprobs: true"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "from 0 to 20"),
        ({"stop": ["x"] * 17}, "stop", "at most 16"),
        ({"stop": "a\0"}, "stop", "stop must be"),
        ({"stop": "\ud800"}, "stop", "stop must be"),
        ({"stop_token_ids": [-1]}, "stop_token_ids", "token ids"),
        ({"stream": "yes"}, "stream", "true or false"),
        ({"stream_options": 1}, "stream_options", "include_usage"),
        ({"model": "\n"}, "model", "model must be a name"),
        ({"model": 7}, "model", "model must be a name"),
        ({"messages": None}, "messages", "messages is required"),
    ],
)
def test_a_field_that_cannot_be_done_is_refused_by_name(fields: Any, param: str | None, message: str) -> None:
    with pytest.raises(BadRequest) as refused:
        read(**fields)

    assert message in refused.value.message
    assert refused.value.param == param


@pytest.mark.parametrize(
    ("fields", "effort", "limit"),
    [
        ({}, None, None),
        ({"reasoning_effort": "none"}, "none", None),
        ({"reasoning_effort": "minimal"}, "minimal", None),
        ({"reasoning_effort": "low"}, "low", None),
        ({"reasoning_effort": "medium"}, "medium", None),
        ({"reasoning_effort": "high"}, "high", None),
        ({"reasoning_effort": "xhigh"}, "high", None),
        ({"reasoning": {"effort": "max"}}, "high", None),
        ({"reasoning": {"enabled": False}}, "none", None),
        ({"reasoning": {"max_tokens": 50}}, None, 50),
        ({"thinking": {"type": "disabled"}}, "none", None),
        ({"thinking": {"type": "disabled", "budget_tokens": 50}}, "none", None),
        ({"thinking": {"type": "enabled", "budget_tokens": 50}}, None, 50),
        ({"thinking": False}, "none", None),
        ({"enable_thinking": False}, "none", None),
        ({"think": "low"}, "low", None),
        ({"think": False}, "none", None),
        ({"thinking_budget": 50}, None, 50),
        ({"thinking_token_budget": 0}, "none", None),
        ({"reasoning_effort": "low", "thinking_budget": 50}, "low", 50),
        ({"reasoning_effort": "low", "enable_thinking": True}, "low", None),
        ({"chat_template_kwargs": {"enable_thinking": False}}, "none", None),
        ({"chat_template_kwargs": {"reasoning_effort": "low"}}, "low", None),
    ],
)
def test_all_ways_to_limit_thinking_mean_the_same(fields: Any, effort: str | None, limit: int | None) -> None:
    got = read(**fields)

    assert (got.prompt_options.effort, got.max_thinking_tokens) == (effort, limit)


@pytest.mark.parametrize(
    "fields", [{"enable_thinking": True}, {"think": True}, {"thinking": {"type": "enabled"}}, {"thinking": True}]
)
def test_thinking_that_is_switched_on_has_no_limit_and_no_effort(fields: Any) -> None:
    got = read(**fields)

    assert got.prompt_options.template_variables == {"enable_thinking": True, "thinking": True}
    assert (got.prompt_options.effort, got.max_thinking_tokens) == (None, None)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"enable_thinking": False, "reasoning_effort": "low"}, "enable_thinking and reasoning_effort contradict"),
        ({"think": True, "reasoning_effort": "none"}, "contradict"),
        ({"enable_thinking": True, "thinking_budget": 0}, "thinking_budget and enable_thinking contradict"),
        ({"reasoning_effort": "low", "reasoning": {"effort": "high"}}, "different efforts"),
        ({"reasoning_effort": "much"}, "reasoning_effort must be one of none, minimal, low"),
        ({"thinking": {"type": "perhaps"}}, "thinking must be"),
        ({"thinking_budget": -2}, "thinking_budget must be"),
        ({"chat_template_kwargs": []}, "chat_template_kwargs must be an object"),
        (
            {"chat_template_kwargs": {"a": {"b": [[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]}}},
            "32 levels",
        ),
    ],
)
def test_contradicting_or_wrong_ways_to_limit_thinking_are_refused(fields: Any, message: str) -> None:
    with pytest.raises(BadRequest, match=message):
        read(**fields)


def test_variables_of_the_template_are_passed_on() -> None:
    variables = {"enable_thinking": True, "tone": {"formal": [1, None]}}

    assert read(chat_template_kwargs=variables).prompt_options.template_variables == variables | {"thinking": True}


@pytest.mark.parametrize(
    ("fields", "shown"),
    [
        ({}, True),
        ({"include_reasoning": True}, True),
        ({"include_reasoning": False}, False),
        ({"reasoning": {"exclude": True}}, False),
    ],
)
def test_a_client_may_ask_not_to_see_what_the_model_thought(fields: Any, shown: bool) -> None:
    assert call(**fields).with_thinking == shown


@pytest.mark.parametrize(
    ("fields", "continues"),
    [
        ({}, None),
        ({"continue_final_message": True, "add_generation_prompt": False}, True),
        ({"continue_final_message": True}, True),
        ({"continue_final_message": False}, False),
        ({"add_generation_prompt": True}, False),
        ({"add_generation_prompt": False}, None),
    ],
)
def test_a_reply_goes_on_with_the_last_message_or_begins_anew(fields: Any, continues: bool | None) -> None:
    assert read(messages=PREFILL, **fields).prompt_options.continues is continues


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"continue_final_message": True, "add_generation_prompt": True}, "exclude each other"),
        ({"continue_final_message": True}, "requires that the last message is the assistant's"),
        ({"add_generation_prompt": False}, "requires that the last message is the assistant's"),
    ],
)
def test_a_reply_cannot_go_on_with_a_message_of_the_user(fields: Any, message: str) -> None:
    with pytest.raises(BadRequest, match=message):
        read(**fields)


def test_no_field_is_in_two_tables() -> None:
    tables = [set(ChatCompletion.model_fields), set(ALIASES), NOTED, set(NEUTRAL), NEVER, set(WARNINGS)]

    assert sum(map(len, tables)) == len(set().union(*tables))
    assert set(ALIASES.values()) <= set(ChatCompletion.model_fields)
