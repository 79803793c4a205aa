"""Turns texts into tokens for embedding models, with tokenizers that it opens itself. Any thread.

The server reads the texts of a request before anything is sent to the engine, so that whatever is wrong with them is
told at once, whether the model is loaded or not.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.embedding_layout import EmbeddingLayout
from models.errors import BadModel
from models.loading.confined import TextChild, confine
from models.loading.kept_open import KeptOpen
from models.spec import ModelSpec
from pipelines.chat_interface import PromptRefused
from pipelines.embedding_interface import TextOptions, TextRefused, TextTokens

USUAL_TOKENS = 512  # longest text where neither the checkpoint nor models.toml names one
TOGETHER = 64  # texts that are tokenized at once, before their tokens are counted
# A longer text is read up to its first LEAST_CHARS or CHARS_PER_TOKEN * limit characters before the rest is looked at.
CHARS_PER_TOKEN, LEAST_CHARS = 64, 64 << 10
MAX_NAMED = 12  # prompts that an error names
# Names that checkpoints give the prompts of the two sides of a search.
SIDES = (
    ("query", "search_query", "retrieval.query", "web_search_query"),
    ("document", "passage", "search_document", "retrieval.passage", "corpus"),
)
FAILED = "The model's tokenizer fails on a text."
TOO_COSTLY = "The model's tokenizer needs too much time or memory for a text."


@dataclass(frozen=True, slots=True)
class _Opened:
    tokenizer: Any
    layout: EmbeddingLayout
    n_known: int  # its tokens have the ids below this
    max_tokens: int  # of one text
    child: TextChild | None  # that reads users' texts; None: this process does


def _open_tokenizer(spec: ModelSpec, path: Path) -> Any:
    from models.loading.tokenizer import open_tokenizer  # brings torch, which a server that starts does not wait for

    return open_tokenizer(spec, path)


class TextReader:
    def __init__(
        self,
        open_: Callable[[ModelSpec, Path], Any] = _open_tokenizer,
        prepare: Callable[[], None] = lambda: None,
        is_trusted: Callable[[ModelSpec], bool] = lambda spec: True,
    ) -> None:
        """As `PromptReader`."""
        self._is_trusted = is_trusted
        self._open_tokenizer = open_
        self._prepare = prepare
        self._opened: KeptOpen[_Opened] = KeptOpen()

    def read(
        self, spec: ModelSpec, inputs: Sequence[str | Sequence[int]], options: TextOptions
    ) -> tuple[TextTokens, ...]:
        """inputs: texts, or tokens that the model reads as they are. Blocks.

        Raises `TextRefused`, and `BadModel` when the tokenizer cannot be opened.
        """
        key, open_ = (spec.fingerprint, spec.limits.context_tokens), functools.partial(self._open, spec)
        read: list[TextTokens] = []
        n_tokens = 0
        for begin in range(0, len(inputs), TOGETHER):
            with self._opened.use(key, open_) as opened:  # between two parts, other threads may use the tokenizer
                if opened.child is not None:
                    opened.child.check()
                part = [*_read_part(opened, inputs[begin : begin + TOGETHER], begin, options)]
            read += part
            n_tokens += sum(len(text.tokens) for text in part)
            if options.max_tokens is not None and n_tokens > options.max_tokens:
                raise TextRefused(f"The input has more than {options.max_tokens} tokens in total.")
        return tuple(read)

    def _open(self, spec: ModelSpec) -> _Opened:
        if spec.path is None or spec.embedding is None:
            raise BadModel("is not downloaded")
        self._prepare()
        tokenizer = self._open_tokenizer(spec, spec.path)
        child = None if self._is_trusted(spec) else confine(tokenizer, spec.name)
        if child is not None:
            child.start()
        return _Opened(
            tokenizer,
            spec.embedding,
            n_known=max(tokenizer.get_vocab().values(), default=0) + 1,
            max_tokens=spec.limits.context_tokens or USUAL_TOKENS,
            child=child,
        )


def _prompt(layout: EmbeddingLayout, options: TextOptions) -> str:
    """Returns the text that goes before each text."""
    prompts = layout.prompts
    if (name := options.prompt_name) is not None:
        if name not in prompts:
            known = f"it has {', '.join(name[:40] for name in [*prompts][:MAX_NAMED])}" if prompts else "it has none"
            raise TextRefused(f"The model has no such prompt; {known}.", "prompt_name")
        return prompts[name]
    if (kind := options.input_type) is not None:
        alike = next((side for side in SIDES if kind in side), (kind,))
        return next((prompts[name] for name in (kind, *alike) if name in prompts), "")
    return prompts.get(layout.default_prompt, "") if layout.default_prompt is not None else ""


def _prompt_tokens(opened: _Opened, prompt: str) -> int:
    """Returns the tokens at the beginning of a text that stand for its prompt, the start token included."""
    if not prompt:
        return 0
    tokens = _encode(opened, [prompt], None)[0]
    return len(tokens) - (bool(tokens) and tokens[-1] in opened.tokenizer.all_special_ids)


def _read_part(
    opened: _Opened, part: Sequence[str | Sequence[int]], begin: int, options: TextOptions
) -> Iterator[TextTokens]:
    """Yields the tokens of some of the inputs. begin: the number of the first."""
    prompt = _prompt(opened.layout, options)
    n_prompt_tokens = 0 if opened.layout.pools_prompt else _prompt_tokens(opened, prompt)
    texts = [_text(opened, prompt + text) for text in part if isinstance(text, str)]
    encoded = iter(_encode(opened, texts, opened.max_tokens if options.truncate else None))
    for index, each in enumerate(part, begin):
        tokens = next(encoded) if isinstance(each, str) else _known(opened, each, options.truncate)
        if not tokens:
            raise TextRefused(f"input[{index}] is empty: the model reads no token in it.")
        if len(tokens) > opened.max_tokens:
            raise TextRefused(
                f"input[{index}] has {len(tokens)} tokens; the model reads at most {opened.max_tokens}. "
                "Send shorter texts, or have them cut at their end with truncate."
            )
        yield TextTokens(tuple(tokens), min(n_prompt_tokens, len(tokens)) if isinstance(each, str) else 0)


def _text(opened: _Opened, text: str) -> str:
    """Returns the text as the tokenizer gets it; of one that is far too long, no more than is needed to tell."""
    if opened.layout.lower_cases:
        text = text.lower()
    n_chars = max(LEAST_CHARS, CHARS_PER_TOKEN * opened.max_tokens)
    if len(text) > n_chars and len(_encode(opened, [text[:n_chars]], None)[0]) > opened.max_tokens:
        return text[:n_chars]
    return text


def _encode(opened: _Opened, texts: Sequence[str], max_tokens: int | None) -> Sequence[Sequence[int]]:
    """max_tokens: cut texts at their end to so many tokens, special ones included; None: not at all."""
    if not texts:
        return []
    cut = {"truncation": True, "max_length": max_tokens} if max_tokens is not None else {"truncation": False}
    try:
        encoded = opened.tokenizer(
            list(texts), add_special_tokens=True, return_attention_mask=False, verbose=False, **cut
        )
    except PromptRefused as refused:  # the text ended the process that reads it
        raise TextRefused(TOO_COSTLY, detail=refused.detail) from refused
    except Exception as error:  # the tokenizer's library may raise anything
        raise TextRefused(FAILED, detail=f"{type(error).__name__}: {error}") from error
    tokens: list[list[int]] = encoded["input_ids"]
    return tokens


def _known(opened: _Opened, tokens: Sequence[int], truncate: bool) -> Sequence[int]:
    if tokens and not 0 <= min(tokens) <= max(tokens) < opened.n_known:
        raise TextRefused(f"The tokens of the model are the numbers from 0 to {opened.n_known - 1}.")
    return tokens[: opened.max_tokens] if truncate else tokens
