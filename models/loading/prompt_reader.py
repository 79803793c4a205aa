"""Turns messages into prompts with tokenizers that it opens itself, apart from those of loaded models. Any thread.

The server reads a prompt before it charges for a chat and before the model is loaded. A tokenizer serves one thread at
a time; those used last stay open.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from models.errors import BadModel
from models.loading.confined import TextChild, confine
from models.loading.kept_open import MAX_OPEN, KeptOpen
from models.spec import ModelSpec
from pipelines.chat.context_length import context_of
from pipelines.chat.grammar.compiler import GrammarCompiler
from pipelines.chat.prompts.pictures import PictureReader
from pipelines.chat.prompts.raw_prompt import read_raw_prompt
from pipelines.chat.prompts.read_prompt import read_prompt
from pipelines.chat_interface import Constraint, Message, Prompt, PromptOptions, PromptRefused, PromptTooLong, RawPrompt

CHARS_PER_TOKEN = 6  # of longer texts the tokens are counted piece by piece, and no more than the context holds
PIECE_CHARS = 64 << 10
FAILED = "The model's tokenizer fails on these messages."
FAILED_RAW = "The model's tokenizer fails on this text."


@dataclass(slots=True)
class _Tokenizer:
    tokenizer: Any
    n_known: int  # its tokens have the ids below this
    max_chars: int  # of one token
    context_tokens: int | None
    pictures: PictureReader | None  # of a vision-language model
    child: TextChild | None  # that reads users' texts; None: this process does
    grammars: GrammarCompiler | None = None  # made for the first grammar, and used without the tokenizer


def _open_tokenizer(spec: ModelSpec, path: Path) -> Any:
    from models.loading.tokenizer import open_tokenizer  # brings torch, which a server that starts does not wait for

    return open_tokenizer(spec, path)


def _open_pictures(path: Path, tokenizer: Any) -> PictureReader:
    from models.loading.processor import open_pictures

    return open_pictures(path, tokenizer)


class PromptReader:
    def __init__(
        self,
        open_: Callable[[ModelSpec, Path], Any] = _open_tokenizer,
        max_open: int = MAX_OPEN,
        prepare: Callable[[], None] = lambda: None,
        is_trusted: Callable[[ModelSpec], bool] = lambda spec: True,
    ) -> None:
        """prepare: called before a tokenizer is opened; imports the libraries, unless another thread does.

        is_trusted: whether the template and tokenizer of a model may read users' texts in this process.
        """
        self._is_trusted = is_trusted
        self._open_tokenizer = open_
        self._prepare = prepare
        self._opened: KeptOpen[_Tokenizer] = KeptOpen(max_open)

    def read(self, spec: ModelSpec, messages: Sequence[Message], options: PromptOptions) -> Prompt:
        """Blocks. A prompt with a grammar that is not known yet has no constraint: `constrain` adds it.

        Raises `PromptRefused`, `PromptTooLong`, and `BadModel` when the tokenizer cannot be opened.
        """
        with self._use(spec, has_images=any(message.images for message in messages)) as opened:
            context = spec.limits.context_tokens or opened.context_tokens
            if context is not None:
                texts = [text for message in messages for text in _texts(message)]
                _refuse_too_long(opened, texts, context, n_least=len(messages))
                if options.tool_use.choice != "none":  # their schemas are bounded, and templates show parts of them
                    _refuse_too_long(
                        opened, [tool.description for tool in options.tool_use.tools], context, field="tools"
                    )
            try:
                prompt = read_prompt(opened.tokenizer, messages, options, opened.pictures, context)
            except PromptRefused:
                raise
            except Exception as error:  # the tokenizer's library may raise anything
                raise PromptRefused(FAILED, f"{type(error).__name__}: {error}") from error
        if context is not None and len(prompt.tokens) >= context:
            raise PromptTooLong(len(prompt.tokens), context)
        return _with_constraint(prompt, _known(opened, prompt))

    def read_raw(self, spec: ModelSpec, raw: RawPrompt) -> Prompt:
        """As `read`, for a text that is not a conversation."""
        with self._use(spec) as opened:
            context = spec.limits.context_tokens or opened.context_tokens
            if isinstance(raw.text, str) and context is not None:
                _refuse_too_long(opened, [raw.text], context, raw.n_reserved, field=raw.field)
            try:
                prompt = read_raw_prompt(opened.tokenizer, raw, opened.n_known)
            except PromptRefused:
                raise
            except Exception as error:  # the tokenizer's library may raise anything
                raise PromptRefused(FAILED_RAW, f"{type(error).__name__}: {error}", field=raw.field) from error
        if context is not None and len(prompt.tokens) + raw.n_reserved > context:
            raise PromptTooLong(len(prompt.tokens), context, field=raw.field)
        prompt = replace(prompt, grammar=raw.grammar)
        return _with_constraint(prompt, _known(opened, prompt))

    def constrain(self, spec: ModelSpec, prompt: Prompt) -> Prompt:
        """Compiles the prompt's grammar, while other threads may use the tokenizer. Blocks, and may take seconds.

        Raises `PromptRefused`, and `BadModel` as `read` does.
        """
        assert prompt.grammar is not None
        grammars = self._grammars(spec, has_images=prompt.media is not None)
        return _with_constraint(prompt, grammars.compile(prompt.grammar))

    def open(self, spec: ModelSpec) -> None:
        """Blocks. Opens the tokenizer and makes what its grammars need. Raises `BadModel`."""
        self._grammars(spec).open()

    def n_tokens_known(self, spec: ModelSpec) -> int:
        """Returns the number that all ids of tokens are below. Raises `BadModel`."""
        with self._use(spec) as opened:
            return opened.n_known

    def _grammars(self, spec: ModelSpec, *, has_images: bool = False) -> GrammarCompiler:
        with self._use(spec, has_images=has_images) as opened:
            if opened.grammars is None:
                opened.grammars = GrammarCompiler(opened.tokenizer)
            return opened.grammars

    @contextmanager
    def _use(self, spec: ModelSpec, *, has_images: bool = False) -> Iterator[_Tokenizer]:
        """has_images: decoding pictures takes long, and chats without pictures do not wait for it.

        Raises `BadModel` for a model that is set aside.
        """
        key = (spec.fingerprint, spec.load.chat_template, has_images)
        with self._opened.use(key, functools.partial(self._open, spec)) as opened:
            if opened.child is not None:
                opened.child.check()
            yield opened

    def _open(self, spec: ModelSpec) -> _Tokenizer:
        if spec.path is None:
            raise BadModel("is not downloaded")
        self._prepare()
        tokenizer = self._open_tokenizer(spec, spec.path)
        vocabulary = tokenizer.get_vocab()
        pictures = _open_pictures(spec.path, tokenizer) if spec.takes_images else None
        child = None if self._is_trusted(spec) else confine(tokenizer, spec.name)
        if child is not None:
            child.start()
        return _Tokenizer(
            tokenizer,
            n_known=max(vocabulary.values(), default=0) + 1,
            max_chars=max(map(len, vocabulary), default=1),
            context_tokens=None if spec.limits.context_tokens else _context_of_class(spec.path),
            pictures=pictures,
            child=child,
        )


def _known(opened: _Tokenizer, prompt: Prompt) -> Constraint | None:
    grammars = opened.grammars
    return None if prompt.grammar is None or grammars is None else grammars.known(prompt.grammar)


def _with_constraint(prompt: Prompt, constraint: Constraint | None) -> Prompt:
    if constraint is None:
        return prompt
    return replace(prompt, constraint=constraint, warnings=(*prompt.warnings, *constraint.warnings))


def _context_of_class(path: Path) -> int | None:
    """Returns the context that the config class has where config.json names none."""
    from transformers import AutoConfig

    if path.is_file():
        return None
    try:
        return context_of(AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False))
    except Exception:  # noqa: BLE001  # the load reports what is wrong with it
        return None


def _texts(message: Message) -> Sequence[str]:
    return (message.content, *(call.arguments for call in message.tool_calls))


def _refuse_too_long(
    opened: _Tokenizer,
    texts: Sequence[str],
    context: int,
    n_reserved: int = 1,
    *,
    n_least: int = 0,
    field: str = "messages",
) -> None:
    """Raises `PromptTooLong` for texts that cannot fit together, without tokenizing all of them.

    n_reserved: tokens that they must leave. n_least: tokens that they have, at least.
    """
    n_chars = sum(map(len, texts))
    n_least = max(n_chars // opened.max_chars, n_least)
    if n_least + n_reserved > context:
        raise PromptTooLong(n_least, context, field=field)
    if n_chars < CHARS_PER_TOKEN * context:
        return
    n_tokens, enough = 0, context + context // 8  # tokens that a cut between two pieces made do not count
    for text in texts:
        for start in range(0, len(text), PIECE_CHARS):
            n_tokens += _count(opened.tokenizer, text[start : start + PIECE_CHARS])
            if n_tokens > enough:
                raise PromptTooLong(n_tokens, context, field=field)


def _count(tokenizer: Any, text: str) -> int:
    try:
        return len(tokenizer.encode(text, add_special_tokens=False))
    except (TypeError, ValueError):  # no text: `read_prompt` says so
        return 0
