"""Tokenizers that name the markup of replies, and what a reader of a reply gets of its pieces."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models
from transformers import PreTrainedTokenizerFast

from pipelines.chat.replies.detokenize import Piece
from pipelines.chat.replies.reply_format import ReplyFormat
from pipelines.chat_interface import Section

# Chat templates with the structure of the families named, without what they do to earlier turns.
QWEN3 = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content.split('</think>')[-1] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}"
    "{% if enable_thinking is defined and not enable_thinking %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}"
    "{% endif %}"
)
R1 = (
    "{% for m in messages %}{{ ('<|User|>' if m.role == 'user' else '<|Assistant|>') + m.content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|Assistant|><think>\\n' }}{% endif %}"
)
HARMONY = (
    "{% for m in messages %}{{ '<|start|>' + m.role + '<|channel|>final<|message|>' + m.content + '<|end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start|>assistant' }}{% endif %}"
)
PLAIN = QWEN3.replace("</think>", "!").replace("<think>", "")
HARMONY_TOKENS = ("<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|constrain|>", "<|return|>", "<|call|>")


def tokenizer(
    template: Any, special: Sequence[str] = (), plain: Sequence[str] = (), response_template: Any = None
) -> PreTrainedTokenizerFast:
    """A tokenizer with these added tokens; it is not used to tokenize."""
    made = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, unk_token="a")))
    made.add_tokens([AddedToken(token, special=True) for token in special], special_tokens=True)
    made.add_tokens([AddedToken(token, special=False) for token in plain])
    made.chat_template = template
    made.response_template = response_template
    return made


def pieces(text: str, special: Iterable[str] = ()) -> list[Piece]:
    """One piece for each special token, and for the text between two."""
    names = set(special)
    parts = re.split("(" + "|".join(map(re.escape, names)) + ")", text) if names else [text]
    return [Piece(part, special=part in names) for part in parts if part]


@dataclass(frozen=True)
class Seen:
    """What a reader of a reply sees, and the names of special tokens that are passed on in the content."""

    thinking: str = ""
    content: str = ""
    special: tuple[str, ...] = ()


def seen(passed: Iterable[tuple[Section, Piece]]) -> Seen:
    texts: dict[Section, str] = {"thinking": "", "content": ""}
    special = []
    for section, piece in passed:
        if not piece.special:
            texts[section] += piece.text
        elif section == "content":
            special.append(piece.text)
    return Seen(texts["thinking"], texts["content"], tuple(special))


def read(reply_format: ReplyFormat, opening: str, reply: str | Iterable[Piece]) -> Seen:
    """Read a whole reply. A text is one piece."""
    reader = reply_format.reader(opening)
    passed: list[tuple[Section, Piece]] = []
    for piece in [Piece(reply)] if isinstance(reply, str) else reply:
        passed += reader.push(piece)
    return seen([*passed, *reader.finish()])


def shown_while_streaming(reply_format: ReplyFormat, opening: str, texts: Iterable[str]) -> list[tuple[str, str]]:
    """The thinking and content that each piece adds."""
    reader = reply_format.reader(opening)
    steps = [seen(reader.push(Piece(text))) for text in texts] + [seen(reader.finish())]
    return [(step.thinking, step.content) for step in steps]


@st.composite
def splits(draw: st.DrawFn, whole: Sequence[Piece]) -> list[Piece]:
    """The same text in other pieces; special tokens stay whole."""
    parts = []
    for piece in whole:
        cuts = [] if piece.special else draw(st.lists(st.integers(0, len(piece.text)), max_size=8).map(sorted))
        ends = [0, *cuts, len(piece.text)]
        parts += [Piece(piece.text[a:b], piece.special) for a, b in pairwise(ends)]
    return parts


def replies(markup: Sequence[str]) -> st.SearchStrategy[str]:
    """Texts full of markup, whole and broken, at right and wrong places."""
    broken = [tag[:half] for tag in markup for half in (1, len(tag) // 2, len(tag) - 1)]
    words = ["a", "b c", " ", "\n", "\n\n", "<", "final", "to=f", "json", *markup, *markup, *broken]
    return st.lists(st.sampled_from(words), max_size=14).map("".join)
