"""Defines what a language model is asked, how messages become its prompt, and what its replies are made of.

Plain data, no torch; `pipelines.interface` has what all kinds of models share. Immutable: any thread.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias

Effort: TypeAlias = Literal["none", "minimal", "low", "medium", "high"]
# Of a reply. "prompt" stands for what precedes it: such a part has no text, only the log probabilities of its tokens.
Section: TypeAlias = Literal["thinking", "content", "prompt"]


@dataclass(frozen=True, slots=True)
class Tool:
    """A function of the client's that a reply may ask to be called."""

    name: str
    description: str = ""
    parameters: Mapping[str, object] = field(default_factory=dict)  # JSON schema of its arguments; empty: it has none


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolUse:
    """Which tools a reply may call, and whether it must."""

    tools: tuple[Tool, ...] = ()
    choice: Literal["auto", "none", "required"] = "auto"  # none: the prompt shows no tools
    name: str | None = None  # with "required": the one tool that is called
    parallel: bool = True  # one reply may have several calls


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that a reply asks for."""

    id: str
    name: str
    arguments: str  # JSON, as the model wrote it


@dataclass(frozen=True, slots=True)
class CallDelta:
    """The next part of a call. The first part of each call has its id and name, the others more of its arguments."""

    index: int  # of the call in its reply
    id: str = ""
    name: str = ""
    arguments: str = ""  # the next characters of the JSON


@dataclass(frozen=True, slots=True)
class MessageImage:
    """A picture in a message."""

    at: int  # characters of the content before it
    data: bytes  # of the file: PNG, JPEG, WebP or GIF; empty until it is read from its URL or its file
    url: str = ""  # http or https; empty: the message has the file itself, or its id
    file_id: str = ""  # of a file that was sent before; empty: the message has the file itself, or its URL
    place: str = ""  # in the request, for errors
    longest_side: int | None = None  # pixels: a larger picture is made smaller before the model sees it


@dataclass(frozen=True, slots=True)
class Grammar:
    """The form that the answer must have. Thinking before the answer is free.

    `pipelines.chat.grammar.lark` says which dialect of Lark is read; it reads GBNF, too.
    """

    kind: Literal["json_object", "json_schema", "regex", "choice", "lark"]
    text: str = ""  # JSON of the schema, or of the list of choices; the regular expression; the grammar in Lark's form
    field: str = "response_format"  # of the request, for errors
    strict: bool = True  # a keyword of the schema that cannot be followed is refused; else left out, with a warning
    whole: bool = False  # it describes all that follows the thinking, also the markup that some models write there


class Constraint(Protocol):
    """A `Grammar` that was read for one tokenizer. Immutable: any thread may begin a reply with it."""

    @property
    def grammar(self) -> Grammar: ...

    @property
    def end(self) -> int:
        """The number in its masks that stands for the end of what the grammar describes; no token has it."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """For the client: what of the grammar was left out."""

    def begin(self) -> Any:
        """The state of one reply, before its first token: a matcher of llguidance."""

    def overrunning(self, closing: str) -> Sequence[int]:
        """The tokens that begin with this text and do not end with it, but for white space."""


class CallFormat(Protocol):
    """How a model writes calls of tools. Immutable: one serves all replies to which the same tools were offered."""

    @property
    def end_tokens(self) -> frozenset[int]:
        """Tokens that end a reply with calls, besides those that end all replies."""

    def reader(self) -> Any: ...


@dataclass(frozen=True, slots=True)
class Message:
    role: Literal["system", "user", "assistant", "tool"]
    content: str
    thinking: str = ""  # what an assistant's message was preceded by
    name: str | None = None  # of who speaks, or of the tool
    tool_calls: tuple[ToolCall, ...] = ()  # of an assistant
    tool_call_id: str | None = None  # of a tool's message: the call that it answers
    images: tuple[MessageImage, ...] = ()  # by their places in the content


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptOptions:
    """How messages become a prompt. Each default leaves it to the model's chat template."""

    effort: Effort | None = None  # how much the model may think; "none": not at all
    template_variables: Mapping[str, object] = field(default_factory=dict)  # further variables of the template, as JSON
    continues: bool | None = None  # the reply goes on with the last message; None: if that is the assistant's
    tool_use: ToolUse = field(default_factory=ToolUse)
    grammar: Grammar | None = None


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class PromptMedia:
    """The pictures of a prompt as its model reads them."""

    inputs: Mapping[str, Any]  # numpy arrays by the names of the model's arguments

    @property
    def n_bytes(self) -> int:
        return sum(int(array.nbytes) for array in self.inputs.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class RawPrompt:
    """What a model goes on with, without a chat template. Special tokens that a text spells out are special tokens."""

    text: str | tuple[int, ...]  # or its tokens
    adds_special_tokens: bool = True  # to a text: those that the tokenizer adds to any, such as one that begins it
    repeated: bool = False  # the text is to stand before the reply
    n_reserved: int = 1  # tokens that the context must leave for the reply
    grammar: Grammar | None = None  # that the reply has to follow
    field: str = "prompt"  # of the request, for errors


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """What a model reads before it replies."""

    tokens: tuple[int, ...]
    opening: str = ""  # the text behind the last user's message, with special tokens spelled out: how the reply begins
    continues: bool = False  # the reply goes on with the last message, so that its text follows that of the prompt
    max_thinking_tokens: int | None = None  # what the effort means for a model whose template has no steps of it
    warnings: tuple[str, ...] = ()  # for the client: where the prompt differs from the messages
    grammar: Grammar | None = None  # that the reply has to follow; None: any text
    constraint: Constraint | None = None  # which tokens it may be made of; made of `grammar` by who read the prompt
    call_format: CallFormat | None = None  # how calls are read from the reply; None: it has none
    media: PromptMedia | None = None  # what the tokens that stand for pictures mean
    raw: bool = False  # of a `RawPrompt`: the reply is all content
    text: str = ""  # of a raw prompt that is to be repeated before the reply
    offsets: tuple[int, ...] = ()  # with `text`: the characters of it before each token


class PromptRefused(Exception):
    """These messages cannot become a prompt of this model."""

    def __init__(self, message: str, detail: str = "", *, field: str = "messages") -> None:
        """message: for the client; detail: for the log; field: of the request that is at fault."""
        super().__init__(message)
        self.message = message
        self.detail = detail
        self.field = field


class PromptTooLong(PromptRefused):
    """The prompt leaves no room for a reply in the model's context."""

    def __init__(self, n_tokens: int, context_tokens: int, *, field: str = "messages") -> None:
        """n_tokens: of the prompt, at least. field: of the request that is too long."""
        of_chat = field == "messages"
        long, it = ("the messages have", "the messages") if of_chat else (f"{field} has", "it")
        super().__init__(
            f"This model's maximum context length is {context_tokens} tokens, but {long} at least {n_tokens}. "
            f"Shorten {it}.",
            field=field,
        )
        self.n_tokens = n_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRequest:
    """One reply. `temperature` 0 is greedy. All sampling settings apply to this request alone."""

    id: str
    prompt: Prompt
    max_tokens: int | None = None  # a ceiling; None: as many as the context leaves; 0: the prompt is read, no more
    owner: str = ""  # cached blocks of a prompt are used for prompts of the same owner only
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0  # 0: all
    min_p: float = 0.0  # tokens less likely than this share of the likeliest are not drawn; 0: all
    seed: int = 0
    stop: tuple[str, ...] = ()
    stop_tokens: tuple[int, ...] = ()  # end the reply as the model's own end tokens do
    min_tokens: int = 0  # no end token before so many tokens
    ignores_end: bool = False  # go on behind end tokens, for benchmarks
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()  # (token, what is added to its logit)
    n_logprobs: int | None = None  # likeliest tokens to report at each position; None: report no log probabilities
    n_prompt_logprobs: int | None = None  # the same of the prompt's tokens, each as following those before it
    max_thinking_tokens: int | None = None  # then the model is made to answer; None: no limit


@dataclass(frozen=True, slots=True)
class TokenText:
    """One token as text. A token that is only a part of a character has no text, but bytes."""

    text: str
    utf8: bytes
    # Natural logarithm of the model's own probability, before penalties and temperature. NaN for the first token of a
    # prompt, which follows none.
    logprob: float
    token: int = -1  # its number in the vocabulary; -1: unknown


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    chosen: TokenText
    likeliest: tuple[TokenText, ...]  # as many as were asked for, likeliest first
