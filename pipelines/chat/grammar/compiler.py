"""Compiles grammars for one tokenizer, on worker threads: no event loop and no device thread waits. No torch."""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from typing import Any

from llguidance import LLMatcher, LLTokenizer

from pipelines.chat.grammar.lark import BadGrammar, lark_of
from pipelines.chat.grammar.limits import LIMITS, VALUES
from pipelines.chat.grammar.trial import ends_in_time, is_cheap
from pipelines.chat.grammar.vocabulary import NoVocabulary, Vocabulary, open_vocabulary, read_vocabulary
from pipelines.chat_interface import Grammar, PromptRefused

MAX_KEPT = 32  # compiled grammars of one tokenizer
MAX_KEPT_CHARS = 512 << 10  # of their texts: a large one takes 150 bytes for each character
MAX_REASON = 300  # characters of the library's error that a client is told
NO_GRAMMARS = "This model's tokenizer writes a token differently beside others, so that no form can be enforced."
TOO_COSTLY = "takes too long to read. Make it smaller, or its patterns simpler"
ONE_OF = "oneOf was read as anyOf, so that a reply may match several of its schemas."

_PLACE = re.compile(r"^(?:at )?\d+\(\d+\): ")
_SOURCE = re.compile(r"\n\s*\d+ \|.*", re.DOTALL)  # the lines of the grammar that the library quotes
_REGEX = re.compile(r"(?:invalid regex \".*\" \(in regex\): )?(?:regex parse error:.*\nerror: )?", re.DOTALL)
_HINT = re.compile(r"\. Enable .*|; following special tokens are .*|; try avoiding .*|; consider making .*", re.DOTALL)
_UNKNOWN_KEYS = re.compile(r"Unimplemented keys: \[(.*)\]")


class CompiledGrammar:
    """A `Constraint`."""

    def __init__(self, grammar: Grammar, matcher: LLMatcher, vocabulary: Vocabulary, warnings: tuple[str, ...]) -> None:
        self.grammar = grammar
        self.end = vocabulary.end
        self.overrunning = vocabulary.overrunning
        self.warnings = warnings
        self._matcher = matcher

    def begin(self) -> LLMatcher:
        return self._matcher.deep_copy()


class GrammarCompiler:
    """Any thread. Grammars that were used last stay compiled."""

    def __init__(self, tokenizer: Any) -> None:
        """Reads the vocabulary; takes up to a second. The tokenizer is not used afterwards."""
        self._lock = threading.Lock()  # of what follows: worker threads share a compiler
        self._vocabulary: Vocabulary | None
        try:
            self._vocabulary = read_vocabulary(tokenizer)
        except NoVocabulary:
            self._vocabulary = None
        self._opened: LLTokenizer | None = None
        self._compiled: OrderedDict[Grammar, CompiledGrammar] = OrderedDict()

    def open(self) -> None:
        """Make what compiling needs, once; see `open_vocabulary`."""
        with self._lock:
            if self._opened is None and self._vocabulary is not None:
                self._opened = open_vocabulary(self._vocabulary)

    def known(self, grammar: Grammar) -> CompiledGrammar | None:
        """The grammar if it is compiled already."""
        with self._lock:
            known = self._compiled.get(grammar)
            if known is not None:
                self._compiled.move_to_end(grammar)
            return known

    def compile(self, grammar: Grammar) -> CompiledGrammar:
        """Blocks, for some milliseconds if the grammar is usual. Raises `PromptRefused`."""
        known = self.known(grammar)
        if known is not None:
            return known
        self.open()
        if self._opened is None or self._vocabulary is None:
            raise PromptRefused(NO_GRAMMARS, field=grammar.field)
        try:
            compiled = _compiled(grammar, self._opened, self._vocabulary)
        except BadGrammar as error:
            raise PromptRefused(f"{grammar.field} {error}.", field=grammar.field) from error
        with self._lock:
            self._compiled[grammar] = compiled
            while len(self._compiled) > MAX_KEPT or sum(len(each.text) for each in self._compiled) > MAX_KEPT_CHARS:
                self._compiled.popitem(last=False)
        return compiled


def _compiled(grammar: Grammar, tokenizer: LLTokenizer, vocabulary: Vocabulary) -> CompiledGrammar:
    text = lark_of(grammar)
    if not is_cheap(text) and not ends_in_time(text, VALUES):
        raise BadGrammar(TOO_COSTLY)
    matcher = LLMatcher(tokenizer, text, log_level=0, limits=LIMITS)
    _check(matcher)
    first = matcher.deep_copy()  # many grammars that are too large are so for their first token
    first.compute_bitmask()
    _check(first)
    warnings = tuple(_warning(grammar.field, each) for each in matcher.get_grammar_warnings())
    return CompiledGrammar(grammar, matcher, vocabulary, warnings)


def _check(matcher: LLMatcher) -> None:
    error = matcher.get_error()
    if error:
        raise BadGrammar(f"cannot be followed: {readable(error)}")


def readable(error: str) -> str:
    """The library's error in one line, without the lines of the grammar that it quotes."""
    text = _PLACE.sub("", _SOURCE.sub("", error).replace("<non-verbose/>", ""))
    text = _HINT.sub("", text.removeprefix("failed to compile JSON schema: "))
    text = _REGEX.sub("", text, count=1)
    if keys := _UNKNOWN_KEYS.search(text):
        text = f"these keywords are not supported: {keys[1]}"
    elif text.startswith("NoExtension"):
        text = "no text that the model can write has this form"
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split()).rstrip(".")
    return line if len(line) <= MAX_REASON else line[: MAX_REASON - 1] + "…"


def _warning(field: str, warning: str) -> str:
    if warning.startswith("oneOf"):
        return f"{field}: {ONE_OF}"
    return f"{field}: {readable(warning)}. The reply need not follow that."
