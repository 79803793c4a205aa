"""What a client asks of a chat, as the routes read it from a body, and what it gets back. Immutable data."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from pipelines.chat_interface import CallDelta, Message, PromptOptions, RawPrompt, Section, TokenLogprobs, ToolCall
from pipelines.interface import FinishReason


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatInput:
    """None: not given, so that the model's default applies. The fields of sampling are those of `ChatRequest`."""

    messages: tuple[Message, ...] = ()  # one message of the user, or a whole conversation that the client keeps
    raw_prompts: tuple[RawPrompt, ...] = ()  # instead of messages: one or more, each with replies of its own
    may_leave_out: range = range(0)  # of `messages`: the oldest of these go when the prompt is too long
    stored: bool = True  # whether the server keeps the conversation
    conversation_id: str | None = None
    system: str | None = None
    model: str | None = None
    prompt_options: PromptOptions = field(default_factory=PromptOptions)
    n_choices: int = 1  # replies to make to the messages or to each prompt; choice i is sampled with seed + i
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_tokens: tuple[int, ...] = ()
    min_tokens: int = 0
    ignores_end: bool = False
    repetition_penalty: float | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    n_logprobs: int | None = None
    n_prompt_logprobs: int | None = None
    max_thinking_tokens: int | None = None  # None: as the effort says
    warnings: tuple[str, ...] = ()  # for the client: fields that were taken and change nothing

    @property
    def n_replies(self) -> int:
        return self.n_choices * max(1, len(self.raw_prompts))


@dataclass(frozen=True, slots=True)
class ChatDelta:
    """The next text of one choice, or the next part of a call."""

    index: int  # of the choice
    section: Section
    text: str
    logprobs: tuple[TokenLogprobs, ...] = ()
    at: float = 0.0  # when the step that made it ended, on the engine's clock
    call: CallDelta | None = None


@dataclass(frozen=True, slots=True)
class ChatTimes:
    """What was measured of one reply, in seconds."""

    load_s: float  # it waited so long while its model was loaded
    prompt_s: float | None = None  # from its start to its first text; None: it has no text
    reply_s: float | None = None  # from the first text to the last


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatChoice:
    text: str
    thinking: str
    finish_reason: FinishReason
    completion_tokens: int  # also those of `thinking`
    thinking_tokens: int
    logprobs: tuple[TokenLogprobs, ...] = ()  # of `text`; empty unless requested
    prompt_logprobs: tuple[TokenLogprobs, ...] = ()  # of the prompt; empty unless requested
    tool_calls: tuple[ToolCall, ...] = ()
    stop_text: str | None = None  # the one of the stop texts that ended the reply
    times: ChatTimes


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatReply:
    choices: tuple[ChatChoice, ...]  # those of the first prompt come first
    at: datetime
    conversation_id: str
    model: str
    prompt_tokens: int
    warnings: tuple[str, ...] = ()

    @property
    def completion_tokens(self) -> int:
        return sum(choice.completion_tokens for choice in self.choices)

    @property
    def thinking_tokens(self) -> int:
        return sum(choice.thinking_tokens for choice in self.choices)
