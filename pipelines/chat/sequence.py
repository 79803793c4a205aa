"""One chat on its way: how it begins, or is refused, what each token adds to its reply, and when that ends. Device thread only."""

from __future__ import annotations

import traceback
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from pipelines.chat.chat_template import PromptRefused, prompt_tokens
from pipelines.chat.stopping import ReplyText
from pipelines.interface import ChatRequest, Failed, FinishReason


@dataclass(slots=True)
class Chat:
    request: ChatRequest
    prompt: list[int]
    text: ReplyText
    ends: frozenset[int]  # tokens that end a reply
    n_units: int = 0  # parts of the cache set aside for it
    tokens: list[int] = field(default_factory=list)  # of the reply so far
    counts: Counter[int] = field(default_factory=Counter)  # how often each token is in it
    broken: bool = False  # its logits were not numbers
    refused: bool = False  # it ran out of memory when it ran alone

    @property
    def n_tokens(self) -> int:
        return len(self.tokens)

    @property
    def longest_tokens(self) -> int:
        """Of prompt and reply, when it is as long as it may become."""
        return len(self.prompt) + self.request.max_tokens

    def take(self, token: int) -> tuple[str, FinishReason | None]:
        """The text that the next token of the reply completes, and why the reply ends with it, if it does."""
        self.tokens.append(token)
        self.counts[token] += 1
        delta = "" if token in self.ends else self.text.push(token)
        finish: FinishReason | None = None
        if token in self.ends or self.text.stopped:
            finish = "stop"
        elif self.n_tokens == self.request.max_tokens:
            finish = "length"
        return (delta if finish is None else delta + self.text.finish()), finish


def begin(request: ChatRequest, tokenizer: Any, ends: frozenset[int], longest_tokens: int) -> Chat | Failed:
    """`longest_tokens`: most that prompt and reply may have together."""
    try:
        prompt = prompt_tokens(tokenizer, request.messages)
    except PromptRefused as error:
        message = "This model's chat template does not take these messages."
        return Failed(request.id, "bad_request", message, str(error))
    except Exception as error:  # noqa: BLE001  # the tokenizer may raise anything
        message = "The model's tokenizer failed on these messages."
        return Failed(request.id, "model_error", message, "".join(traceback.format_exception(error)))
    if request.max_tokens < 1:
        return Failed(request.id, "bad_request", "max_tokens must be at least 1.")
    n_tokens = len(prompt) + request.max_tokens
    if n_tokens > longest_tokens:
        message = (
            f"The prompt has {len(prompt)} tokens and max_tokens is {request.max_tokens}: "
            f"together {n_tokens}, {n_tokens - longest_tokens} more than the {longest_tokens} that fit."
        )
        return Failed(request.id, "context_overflow", message)

    def decode(tokens: list[int]) -> str:
        return str(tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    return Chat(request, prompt, ReplyText(decode, request.stop), ends)


def end_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    """The tokens that end a reply: the tokenizer's and all that the model's generation settings name."""
    named = model.generation_config.eos_token_id
    several = named if isinstance(named, list) else [named]
    return frozenset(token for token in (*several, tokenizer.eos_token_id) if token is not None)
