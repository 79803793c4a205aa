"""One chat from its prompt to the end of its reply: what each token adds, and why it ends. Device thread only."""

from __future__ import annotations

import math
import traceback
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.chat.grammar.constrained_reply import ConstrainedReply, ReplyRefused
from pipelines.chat.prompt_scores import PromptPart
from pipelines.chat.prompts.read_prompt import end_of_turn_tokens
from pipelines.chat.prompts.special_tokens import MARKS, encode_marked
from pipelines.chat.replies.detokenize import Detokenizer
from pipelines.chat.replies.reply_text import Part, PlainSections, ReplyText
from pipelines.chat.replies.sections import ReplyFormat, reply_format
from pipelines.chat_interface import CallDelta, ChatRequest, Constraint, TokenLogprobs, TokenText
from pipelines.interface import Failed, FinishReason, Replied, TextDelta

CUT_CALL = "The model ended a call of a tool before its arguments were complete, so that they are no valid JSON."
WHITE_SPACE = (" ", "\n", "\n\n", "\t", "  ")  # that may stand between thinking and answer


@dataclass(slots=True)
class ChatSequence:
    request: ChatRequest
    prompt: list[int]
    max_tokens: int  # of the reply: what was requested, or less when the context leaves less
    text: ReplyText
    tokenizer: ChatTokenizer
    end_tokens: frozenset[int]
    warnings: tuple[str, ...] = ()
    n_pages: int = 0  # of the KV cache, reserved for this chat
    tokens: list[int] = field(default_factory=list)  # of the reply so far
    n_thinking: int = 0  # tokens of the reply that were spent on thinking
    ran_out_of_memory_alone: bool = False
    constrained: ConstrainedReply | None = None  # it has a grammar
    refusal: str = ""  # why it cannot go on, for the client
    _forced: deque[int] = field(default_factory=deque)  # tokens that end the thinking, once its budget is used up
    _ended_thinking: bool = False  # the budget was used up
    _unsent_logprobs: list[TokenLogprobs] = field(default_factory=list)  # of tokens whose text is held back
    _prompt_logprobs: list[TokenLogprobs] = field(default_factory=list)  # of the tokens scored so far

    @property
    def id(self) -> str:
        return self.request.id

    @property
    def n_tokens(self) -> int:
        return len(self.tokens)

    @property
    def max_length(self) -> int:
        """Tokens of prompt and reply when the reply is as long as it may become."""
        return len(self.prompt) + self.max_tokens

    @property
    def forced_token(self) -> int | None:
        """The token that must come next, whatever the model would choose."""
        return self._forced[0] if self._forced else None

    @property
    def n_prompt_logprobs(self) -> int | None:
        """How many of the likeliest tokens to report at each place of the prompt; None: its scores are not wanted."""
        return None if self.tokens else self.request.n_prompt_logprobs

    def add_scores(self, part: PromptPart) -> None:
        """Add the log probabilities of the prompt's next tokens. A prompt may be scored again from its beginning."""
        assert part.begin <= len(self._prompt_logprobs), "no token is left out"
        del self._prompt_logprobs[part.begin :]
        self._prompt_logprobs += [
            self.tokenizer.describe(score.token, score.logprob, score.likeliest) for score in part.scores
        ]

    def prompt_read(self) -> Sequence[TextDelta]:
        """The delta that reports the log probabilities of the prompt, once; nothing if they are not wanted."""
        if self.n_prompt_logprobs is None:
            return ()
        logprobs = (self.tokenizer.describe(self.prompt[0], math.nan, ()), *self._prompt_logprobs)
        self._prompt_logprobs = []
        return (TextDelta(self.id, "", "prompt", logprobs),)

    def append(
        self, token: int, logprobs: tuple[float, Sequence[tuple[int, float]]] | None = None
    ) -> tuple[Sequence[TextDelta], FinishReason | None]:
        """Add the reply's next token. Returns the text that it completes, and why the reply ends with it, or None.

        logprobs: of the token, and of the likeliest tokens in its place; None: they were not asked for. Raises
        `ReplyRefused` when the reply cannot follow its grammar, and whatever the tokenizer raises.
        """
        if self.refusal:
            raise ReplyRefused(self.refusal)
        forced = bool(self._forced)
        if forced:
            self._forced.popleft()
        self.tokens.append(token)
        section = self.text.section
        self.n_thinking += section == "thinking"
        is_end = token in self.end_tokens
        calling = self.text.calling
        texts = [] if is_end else list(self.text.push(token))
        if section == "content" and not is_end and logprobs is not None:
            self._unsent_logprobs.append(self.tokenizer.describe(token, *logprobs))
        if self.constrained is not None and not is_end:
            self.constrained.add(token, self.text.next_part, forced=forced)
        finish: FinishReason | None = None
        if is_end or self.text.stopped or self.text.has_all_calls or self._is_complete():
            finish = "stop"
        elif self.n_tokens >= self.max_tokens:
            finish = "length"
        if finish is not None:
            texts += self.text.finish(cut_off=finish == "length")
            if self.text.stopped:
                self._unsent_logprobs.clear()  # of tokens that are a part of the stop string
            elif finish == "stop" and self.text.tool_calls:
                finish = "tool_calls"
        else:
            self.limit_thinking()
        return self._deltas(texts, calling or self.text.calling, finish is not None), finish

    def write_mask(self, words: NDArray[np.uint32]) -> None:
        """Write which tokens the grammar allows next, as `ConstrainedReply` does; all of them if that fails."""
        if self.constrained is not None and not self._forced and not self.refusal:
            try:
                self.constrained.write_mask(words)
                return
            except ReplyRefused as refusal:  # the lane is told with the next token, which is not used
                self.refusal = str(refusal)
        words[:] = ~np.uint32(0)

    def _is_complete(self) -> bool:
        if self.constrained is None or not self.constrained.is_complete:
            return False
        if self.n_tokens < self.request.min_tokens:
            self.warnings += (f"min_tokens: the form of the reply was complete after {self.n_tokens} tokens.",)
        return True

    def replied(self, finish: FinishReason) -> Replied:
        return Replied(
            self.id,
            text=self.text.text,
            prompt_tokens=len(self.prompt),
            completion_tokens=self.n_tokens,
            finish_reason=finish,
            stop_text=self.text.stop_text,
            thinking=self.text.thinking,
            thinking_tokens=self.n_thinking,
            warnings=(*self.warnings, CUT_CALL) if finish != "length" and self.text.has_cut_call else self.warnings,
            tool_calls=self.text.tool_calls,
        )

    def limit_thinking(self) -> None:
        """Once the budget is used up, force the tokens that end the thinking to come next."""
        limit = self.request.max_thinking_tokens
        if limit is None or self.n_thinking < limit or self._ended_thinking or self.text.section != "thinking":
            return
        self._ended_thinking = True
        self._forced.extend(self.tokenizer.closing_tokens)

    def _deltas(self, parts: Sequence[Part], calling: bool, ended: bool) -> Sequence[TextDelta]:
        """The deltas of what is new. Log probabilities go with the next text of the content that comes out; those of
        calls are not reported.
        """
        deltas = []
        for part in parts:
            if isinstance(part, CallDelta):
                self._unsent_logprobs.clear()
                deltas.append(TextDelta(self.id, "", call=part))
                continue
            section, text = part
            logprobs: tuple[TokenLogprobs, ...] = ()
            if section == "content" and self._unsent_logprobs:
                logprobs, self._unsent_logprobs = tuple(self._unsent_logprobs), []
            deltas.append(TextDelta(self.id, text, section, logprobs))
        if calling:
            self._unsent_logprobs.clear()
        if ended and self._unsent_logprobs:  # of tokens without text, such as the parts of a character that never came
            deltas.append(TextDelta(self.id, "", "content", tuple(self._unsent_logprobs)))
            self._unsent_logprobs = []
        return deltas


class ChatTokenizer:
    """What a lane's sequences need of the tokenizer: text of tokens, the format of replies, the tokens that end one."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.detokenizer = Detokenizer(tokenizer)
        self._tokenizer = tokenizer
        self._tokens_of: dict[str, Sequence[int]] = {}
        self.format: ReplyFormat = reply_format(tokenizer)
        self.end_tokens = find_end_tokens(model, tokenizer)
        closing = self.format.closing
        self.closing_tokens: Sequence[int] = (
            () if closing is None else tuple(tokenizer.encode(closing, add_special_tokens=False))
        )

    def tokens_of(self, text: str) -> Sequence[int]:
        """The tokens of a text of markup in the middle of a reply."""
        known = self._tokens_of.get(text)
        if known is None:
            known = self._tokens_of[text] = tuple(encode_marked(self._tokenizer, MARKS[0] + text, MARKS[0]))
        return known

    @property
    def white_tokens(self) -> frozenset[int]:
        """Tokens that are white space alone; the usual ones."""
        return frozenset(tokens[0] for text in WHITE_SPACE if len(tokens := self.tokens_of(text)) == 1)

    def describe(self, token: int, logprob: float, likeliest: Sequence[tuple[int, float]]) -> TokenLogprobs:
        return TokenLogprobs(self._text(token, logprob), tuple(self._text(*each) for each in likeliest))

    def _text(self, token: int, logprob: float) -> TokenText:
        return TokenText(self.detokenizer.text_of(token), self.detokenizer.utf8_of(token), logprob, token)


def begin(request: ChatRequest, tokenizer: ChatTokenizer, max_length: int, n_embeddings: int) -> ChatSequence | Failed:
    """Start a reply.

    max_length: most tokens that prompt and reply may have together. n_embeddings: tokens that the model knows.
    """
    prompt = list(request.prompt.tokens)
    asked, have = ("prompt", "has") if request.prompt.raw else ("messages", "have")
    if not prompt:
        return Failed(request.id, "bad_request", "The messages make an empty prompt.")
    if max(prompt) >= n_embeddings:  # looked up on a GPU it would end the process
        message = f"The {asked} {have} a token that this model was not trained with."
        return Failed(request.id, "bad_request", message)
    n_left = max_length - len(prompt)
    if n_left < (0 if request.max_tokens == 0 else 1):
        message = (
            f"This model's maximum context length is {max_length} tokens on this device, but the {asked} {have} "
            f"{len(prompt)}. Shorten the {asked}."
        )
        return Failed(request.id, "context_overflow", message)
    wanted = n_left if request.max_tokens is None else request.max_tokens
    if wanted < 0:
        return Failed(request.id, "bad_request", "max_tokens must be at least 0.")
    warnings: tuple[str, ...] = ()
    if wanted > n_left:
        warnings = (f"max_tokens was {wanted}: the context of {max_length} tokens leaves {n_left} after the {asked}.",)
    try:
        reader = PlainSections() if request.prompt.raw else tokenizer.format.reader(request.prompt.opening)
        stream = tokenizer.detokenizer.stream(after_text=request.prompt.continues)
        calls = request.prompt.call_format
        text = ReplyText(stream, reader, request.stop, None if calls is None else calls.reader())
    except BaseException as error:  # noqa: BLE001  # the tokenizer may raise anything, also a panic of Rust code
        message = "The model's tokenizer failed on these messages."
        return Failed(request.id, "model_error", message, "".join(traceback.format_exception(error)))
    end_tokens = frozenset(request.stop_tokens)
    if not request.ignores_end:
        end_tokens |= tokenizer.end_tokens | (frozenset() if calls is None else calls.end_tokens)
    chat = ChatSequence(request, prompt, min(wanted, n_left), text, tokenizer, end_tokens, warnings)
    chat.limit_thinking()
    if request.prompt.constraint is not None:
        chat.constrained = _constrained(chat, request.prompt.constraint)
    return chat


def _constrained(chat: ChatSequence, constraint: Constraint) -> ConstrainedReply:
    tokenizer = chat.tokenizer
    reply = ConstrainedReply(
        constraint,
        tokenizer.tokens_of,
        ends=chat.end_tokens,
        never=tokenizer.end_tokens - chat.end_tokens,
        white=tokenizer.white_tokens,
        may_think=chat.request.max_thinking_tokens != 0,
    )
    reply.begin(chat.text.next_part)
    return reply


def find_end_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    """The tokens that end a reply: the tokenizer's, all that the model's generation config names, and those with which
    the chat template ends a turn of the assistant.
    """
    configured = model.generation_config.eos_token_id
    several = configured if isinstance(configured, list) else [configured]
    named = frozenset(token for token in (*several, tokenizer.eos_token_id) if token is not None)
    return named | end_of_turn_tokens(tokenizer)
