"""One chat from its prompt to the end of its reply: what each token adds, and why it ends. Device thread only."""

from __future__ import annotations

import traceback
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from pipelines.chat.chat_template import PromptRefused, prompt_tokens
from pipelines.chat.stopping import ReplyText
from pipelines.interface import ChatRequest, Failed, FinishReason


@dataclass(slots=True)
class ChatSequence:
    request: ChatRequest
    prompt: list[int]
    text: ReplyText
    end_tokens: frozenset[int]
    n_pages: int = 0  # of the KV cache, reserved for this chat
    tokens: list[int] = field(default_factory=list)  # of the reply so far
    counts: Counter[int] = field(default_factory=Counter)  # occurrences of each token in the reply
    has_invalid_logits: bool = False  # its last logits were infinite or NaN
    ran_out_of_memory_alone: bool = False

    @property
    def id(self) -> str:
        return self.request.id

    @property
    def n_tokens(self) -> int:
        return len(self.tokens)

    @property
    def max_length(self) -> int:
        """Tokens of prompt and reply when the reply is as long as it may become."""
        return len(self.prompt) + self.request.max_tokens

    def append(self, token: int) -> tuple[str, FinishReason | None]:
        """Add the reply's next token. Returns the text that it completes, and why the reply ends with it, or None."""
        self.tokens.append(token)
        self.counts[token] += 1
        delta = "" if token in self.end_tokens else self.text.push(token)
        finish: FinishReason | None = None
        if token in self.end_tokens or self.text.stopped:
            finish = "stop"
        elif self.n_tokens == self.request.max_tokens:
            finish = "length"
        return (delta if finish is None else delta + self.text.finish()), finish


def begin(
    request: ChatRequest, tokenizer: Any, end_tokens: frozenset[int], max_length: int, n_embeddings: int
) -> ChatSequence | Failed:
    """Tokenize the request's prompt.

    max_length: most tokens that prompt and reply may have together. n_embeddings: tokens that the model knows.
    """
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
    if max(prompt, default=0) >= n_embeddings:  # looked up on a GPU it would end the process
        return Failed(request.id, "bad_request", "The messages spell out a token that this model was not trained with.")
    n_tokens = len(prompt) + request.max_tokens
    if n_tokens > max_length:
        message = (
            f"The prompt has {len(prompt)} tokens and max_tokens is {request.max_tokens}: "
            f"together {n_tokens}, {n_tokens - max_length} more than the {max_length} that fit."
        )
        return Failed(request.id, "context_overflow", message)

    def decode(tokens: list[int]) -> str:
        return str(tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    return ChatSequence(request, prompt, ReplyText(decode, request.stop), end_tokens)


def find_end_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    """The tokens that end a reply: the tokenizer's, and all that the model's generation config names."""
    configured = model.generation_config.eos_token_id
    several = configured if isinstance(configured, list) else [configured]
    return frozenset(token for token in (*several, tokenizer.eos_token_id) if token is not None)
