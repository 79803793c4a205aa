"""Calls of tools in whole replies, token by token: deltas, why the reply ends, stop strings, log probabilities."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from tokenizers import AddedToken

from pipelines.chat.prompts.read_prompt import read_prompt
from pipelines.chat.sequence import CUT_CALL, ChatSequence, ChatTokenizer, begin
from pipelines.chat_interface import ChatRequest, Message, Prompt, PromptOptions, ToolUse
from pipelines.interface import Replied, TextDelta
from tests.support.call_samples import NOW, WEATHER
from tests.support.chat_tokenizers import chat_tokenizer

USE = ToolUse(tools=(WEATHER, NOW))
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Rom"}}\n</tool_call>'


class Chat:
    """One reply of a model with this tokenizer."""

    def __init__(
        self,
        family: str,
        use: ToolUse = USE,
        *,
        more: tuple[str, ...] = (),
        response_template: Any = None,
        **settings: Any,
    ) -> None:
        self.tokenizer = chat_tokenizer(family)
        self.tokenizer.response_template = response_template
        self.tokenizer.add_tokens([AddedToken(each, special=True) for each in more], special_tokens=True)
        self.prompt: Prompt = read_prompt(self.tokenizer, [Message("user", "Hi")], PromptOptions(tool_use=use))
        model = SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=self.tokenizer.eos_token_id))
        request = ChatRequest(id="c", prompt=replace(self.prompt, grammar=None), **settings)
        begun = begin(request, ChatTokenizer(model, self.tokenizer), 4096, 100_000)
        assert isinstance(begun, ChatSequence)
        self.sequence = begun
        self.deltas: list[TextDelta] = []

    def write(self, text: str, *, ends: bool = True) -> Replied | None:
        """Add the tokens of the text, and the token that ends a reply, until the reply ends."""
        tokens = self.tokenizer.encode(text, add_special_tokens=False)
        for token in [*tokens, *([self.tokenizer.eos_token_id] if ends else [])]:
            deltas, finish = self.sequence.append(token, (-0.5, [(token, -0.5)]))
            self.deltas += deltas
            if finish is not None:
                return self.sequence.replied(finish)
        return None

    @property
    def shown(self) -> list[str]:
        """What the deltas say, each kind joined."""
        found: list[str] = []
        kind = ""
        for delta in self.deltas:
            new = "call" if delta.call is not None else delta.section
            text = delta.text if delta.call is None else delta.call.name + delta.call.arguments
            found[-1:] = [found[-1] + text] if new == kind else [*found[-1:], text]
            kind = new
        return found


def test_a_reply_that_ends_with_calls_says_so() -> None:
    chat = Chat("qwen3")

    end = chat.write(f"I look.\n{CALL}\n{CALL}")

    assert end is not None
    assert end.finish_reason == "tool_calls"
    assert end.text == "I look."
    assert [(call.name, call.arguments) for call in end.tool_calls] == [("get_weather", '{"city": "Rom"}')] * 2
    assert chat.shown == ["I look.", 'get_weather{"city": "Rom"}' * 2]
    assert [delta.call.index for delta in chat.deltas if delta.call and delta.call.name] == [0, 1]


def test_thinking_precedes_a_call() -> None:
    chat = Chat("qwen3")

    end = chat.write(f"<think>\nHm: <tool_call>?\n</think>\n\n{CALL}")

    assert end is not None
    assert (end.thinking, end.text, len(end.tool_calls)) == ("Hm: <tool_call>?", "", 1)


def test_a_reply_without_calls_ends_as_before() -> None:
    end = Chat("qwen3").write("Just {text} <tool_call>.")

    assert end is not None
    assert (end.finish_reason, end.text, end.tool_calls) == ("stop", "Just {text} <tool_call>.", ())


def test_without_tools_a_call_is_text() -> None:
    chat = Chat("qwen3", ToolUse())

    end = chat.write(CALL)

    assert chat.prompt.call_format is None
    assert end is not None
    assert (end.finish_reason, end.text) == ("stop", CALL)


def test_a_reply_that_is_cut_off_in_a_call_has_it_as_far_as_it_came() -> None:
    chat = Chat("qwen3", max_tokens=60)

    end = chat.write(CALL)

    assert end is not None
    assert end.finish_reason == "length"
    assert CALL.find(end.tool_calls[0].arguments) > 0
    assert end.warnings == ()


BEGUN = '<tool_call>\n{"name": "get_'


@pytest.mark.parametrize(
    ("written", "content", "n_calls"),
    [
        (BEGUN, "", 0),
        (f"I look.\n{BEGUN}", "I look.", 0),
        (f"{CALL}\n{BEGUN}", "", 1),
        ("Is 2 <", "Is 2 <", 0),
        ("<tool_call>\nnever was one", "<tool_call>\nnever was one", 0),
    ],
)
def test_the_limit_of_tokens_leaves_no_beginning_of_a_call_in_the_content(
    written: str, content: str, n_calls: int
) -> None:
    n_tokens = len(chat_tokenizer("qwen3").encode(written, add_special_tokens=False))
    chat = Chat("qwen3", n_logprobs=1, max_tokens=n_tokens)

    end = chat.write(written)

    assert end is not None
    assert (end.finish_reason, end.text, len(end.tool_calls)) == ("length", content, n_calls)
    told = "".join(each.chosen.text for delta in chat.deltas for each in delta.logprobs)
    assert told.rstrip("\n") == content


def test_a_required_call_is_no_content_however_early_it_is_cut_off() -> None:
    for family, text in (("qwen3", "<tool"), ("llama3", '{"name": "get_')):
        n_tokens = len(chat_tokenizer(family).encode(text, add_special_tokens=False))
        cut = Chat(family, replace(USE, choice="required"), max_tokens=n_tokens).write(text)
        free = Chat(family, max_tokens=n_tokens).write(text)

        assert cut is not None
        assert free is not None
        assert (cut.text, free.text) == ("", text)


def test_a_call_that_the_model_itself_breaks_off_is_told() -> None:
    end = Chat("qwen3").write('<tool_call>\n{"name": "get_weather", "arguments": {"city": ')

    assert end is not None
    assert (end.finish_reason, end.warnings[-1:]) == ("tool_calls", (CUT_CALL,))


def test_stop_strings_end_the_content_and_no_call() -> None:
    end = Chat("qwen3", stop=("Rom", "</tool_call>", "STOP")).write(f"a{CALL}b STOP c")

    assert end is not None
    assert (end.text, end.finish_reason, end.stop_text) == ("a\n\nb ", "stop", "STOP")
    assert end.tool_calls[0].arguments == '{"city": "Rom"}'


def test_a_stop_string_does_not_go_on_behind_a_call() -> None:
    end = Chat("qwen3", stop=("ab",)).write(f"a{CALL}b")

    assert end is not None
    assert (end.text, end.finish_reason) == ("a\n\nb", "tool_calls")


def test_one_call_at_most_ends_the_reply() -> None:
    chat = Chat("qwen3", replace(USE, parallel=False))

    end = chat.write(f"{CALL}\n{CALL}")

    assert end is not None
    assert (end.finish_reason, len(end.tool_calls)) == ("tool_calls", 1)
    assert end.completion_tokens < len(chat.tokenizer.encode(CALL))


def test_log_probabilities_are_reported_of_the_content_alone() -> None:
    chat = Chat("qwen3", n_logprobs=1)

    chat.write(f"Yes.\n{CALL}\nNo.")

    tokens = [each.chosen.text for delta in chat.deltas for each in delta.logprobs]
    assert "".join(tokens).replace("\n", "") == "Yes.No."
    assert all(not delta.logprobs for delta in chat.deltas if delta.call is not None)


HARMONY_TOKENS = ("<|constrain|>",)


@pytest.mark.parametrize(
    "header",
    [
        " to=functions.get_weather<|channel|>commentary json<|message|>",
        "<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>",
        "<|channel|>analysis to=functions.get_weather<|message|>",
    ],
)
def test_gpt_oss_calls_by_a_recipient_in_the_header(header: str) -> None:
    chat = Chat("harmony", more=HARMONY_TOKENS)
    thinking = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant" if "analysis" not in header else ""

    end = chat.write(f'{thinking}{header}{{"city": "Rom"}}<|call|>never', ends=False)

    assert end is not None, "<|call|> ends the reply"
    assert (end.finish_reason, end.text, end.thinking) == ("tool_calls", "", "Hm." if thinking else "")
    assert [(call.name, call.arguments) for call in end.tool_calls] == [("get_weather", '{"city": "Rom"}')]


def test_gpt_oss_speaks_in_the_commentary_and_then_calls() -> None:
    chat = Chat("harmony", more=HARMONY_TOKENS)

    end = chat.write(
        "<|channel|>commentary<|message|>I look.<|end|><|start|>assistant"
        "<|channel|>commentary to=functions.now <|constrain|>json<|message|>{}<|call|>"
    )

    assert end is not None
    assert (end.text, [call.name for call in end.tool_calls]) == ("I look.", ["now"])


def test_a_message_of_gpt_oss_to_an_unknown_tool_is_text() -> None:
    end = Chat("harmony", more=HARMONY_TOKENS).write("<|channel|>commentary to=fly<|message|>up<|call|>")

    assert end is not None
    assert (end.text, end.tool_calls) == ("up", ())


def test_mistrals_special_tokens_begin_calls() -> None:
    end = Chat("mistral").write('[TOOL_CALLS] [{"name": "now", "arguments": {}, "id": "abcDEF123"}]')

    assert end is not None
    assert (end.finish_reason, end.text, [call.name for call in end.tool_calls]) == ("tool_calls", "", ["now"])


DECLARED = {  # as transformers' tokenizers say it themselves
    "start_anchor": "<|im_start|>assistant\n",
    "fields": {
        "reasoning_content": {"open": "<think>", "close_pattern": r"</think>\s*", "content": "text"},
        "tool_calls": {
            "open_pattern": r"<tool_call>\s*<function=(?P<name>[^\n>]+)>",
            "close_pattern": r"</tool_call>\s*",
            "repeats": True,
            "content": "xml-inline",
            "content_args": {"tag_pattern": r"<parameter=(?P<key>[^>\n]+)>\s*(?P<value>.*?)\s*</parameter>"},
            "transform": {"type": "function", "function": {"name": "{name}", "arguments": "{content}"}},
        },
        "content": {"close_pattern": r"<\|im_end\|>\s*", "content": "text"},
    },
}


def test_calls_are_read_where_the_tokenizer_declares_the_parts_of_a_reply() -> None:
    chat = Chat("qwen3", response_template=DECLARED)

    end = chat.write(
        "<think>\nHm.\n</think>\n\nI look.\n\n<tool_call>\n<function=get_weather>\n"
        "<parameter=city>\nRom\n</parameter>\n"
        "<parameter=days>\n3\n</parameter>\n</function>\n</tool_call>\n"
        "<tool_call>\n<function=now>\n</function>\n</tool_call>"
    )

    assert end is not None
    assert (end.thinking, end.text, end.finish_reason) == ("Hm.", "I look.", "tool_calls")
    assert [(call.name, call.arguments) for call in end.tool_calls] == [
        ("get_weather", '{"city": "Rom", "days": 3}'),
        ("now", "{}"),
    ]
