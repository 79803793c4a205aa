"""Chats whose replies have a grammar, and which tokens it allows next."""

from __future__ import annotations

import functools
import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np

from pipelines.chat.grammar.compiler import GrammarCompiler
from pipelines.chat.sequence import ChatSequence, ChatTokenizer, begin
from pipelines.chat_interface import ChatRequest, Grammar, Prompt
from tests.support.chat_tokenizers import chat_tokenizer
from tests.support.lanes.chat_play import TOKENIZER, chat

PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 99},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}


@functools.cache
def compiler_of(family: str) -> GrammarCompiler:
    """family: of `chat_tokenizers`, or "tiny"."""
    return GrammarCompiler(TOKENIZER if family == "tiny" else chat_tokenizer(family))


def schema_of(schema: Any, **options: Any) -> Grammar:
    return Grammar("json_schema", json.dumps(schema), **options)


def with_grammar(request: ChatRequest, grammar: Grammar, family: str = "tiny") -> ChatRequest:
    prompt = replace(request.prompt, grammar=grammar, constraint=compiler_of(family).compile(grammar))
    return replace(request, prompt=prompt)


def constrained(name: str, grammar: Grammar, **settings: Any) -> ChatRequest:
    """A chat with a tiny model whose reply has a grammar."""
    return with_grammar(chat(name, **settings), grammar)


class Writer:
    """Stands for a model of one of the families of `chat_tokenizers`: it writes the text that a test gives it."""

    def __init__(self, family: str, grammar: Grammar, opening: str, *, max_tokens: int = 200, **settings: Any) -> None:
        self.tokenizer = chat_tokenizer(family)
        self._vocabulary = len(self.tokenizer)
        prompt = Prompt(tokens=(1,), opening=opening, constraint=compiler_of(family).compile(grammar))
        request = ChatRequest(id="a", prompt=prompt, max_tokens=max_tokens, **settings)
        model = SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=self.tokenizer.eos_token_id))
        begun = begin(request, ChatTokenizer(model, self.tokenizer), 1000, self._vocabulary)
        assert isinstance(begun, ChatSequence)
        self.chat = begun
        self.finish: str | None = None

    @property
    def allowed(self) -> list[str]:
        """The names of the tokens that may come next."""
        words = np.zeros(-(-self._vocabulary // 32), np.uint32)
        self.chat.write_mask(words)
        bits = np.unpackbits(words.view(np.uint8), bitorder="little")[: self._vocabulary]
        return [str(name) for name in self.tokenizer.convert_ids_to_tokens(np.flatnonzero(bits).tolist())]

    def may_write(self, text: str) -> bool:
        """Whether the first token of the text may come next."""
        token = self.tokenizer.encode(text, add_special_tokens=False)[0]
        return self.tokenizer.convert_ids_to_tokens(token) in self.allowed

    def write(self, text: str) -> Writer:
        """Write a text whose tokens are all allowed."""
        for token in self.tokenizer.encode(text, add_special_tokens=False):
            assert self.finish is None, "the reply has ended"
            forced = self.chat.forced_token
            assert forced in (None, token)
            name = self.tokenizer.convert_ids_to_tokens(token)
            assert forced is not None or name in self.allowed, f"{name!r} is not allowed behind {self.chat.text.text!r}"
            _, self.finish = self.chat.append(token)
        return self
