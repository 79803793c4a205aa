"""A reply's text comes out as its tokens do, whole character by whole character, and is what the tokenizer decodes."""

from __future__ import annotations

import copy
import itertools
import os
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.chat.detokenize import REPLACEMENT, Detokenizer, Piece, TokenStream
from pipelines.chat.reply_text import PlainSections, ReplyText
from tests.unit.pipelines.chat.tokenizer_kinds import BYTE_KINDS, KINDS, tokenizer_of

N_EXAMPLES = int(os.environ.get("AGENTNAME_TEXT_EXAMPLES", "100"))  # of each kind
CONFUSES_REPLACEMENTS = {"bytes in Python", "SentencePiece in Python"}  # with parts of a character
HOLDS_BACK = {"SentencePiece in Python", "BPE in Python"}  # what following tokens change: last spaces, last @@

SAMPLES = [
    "the server keeps a model in memory",
    " and then",
    "  two  spaces ",
    "\n\n\tindented\n",
    "你好，世界。",
    "漢字かな交じり文",
    "한국어 텍스트",
    "\u1112\u1161\u11ab",  # Hangul as single letters
    "שלום \u200fעולם",
    "السلام عليكم",
    "e\u0301 n\u0303 \u0e01\u0e34\u0e48",  # combining marks
    "👨‍👩‍👧‍👦",
    "🏳️‍🌈👍🏽",
    "🇩🇪🇫🇷🇯🇵",
    "😀" * 6,
    "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𐍈",
    "\ufffd",
    "a\ufffd\ufffdb",
    "<0x41>",
    "don't, isn't. 'quoted'",
    "\x00\x7f\u00a0\u2028\ufeff",
]
any_character = st.characters(exclude_categories=["Cs"])
parts = st.one_of(st.sampled_from(SAMPLES), st.text(any_character, max_size=6), st.text("the srv.'\n", max_size=8))
texts = st.lists(parts, max_size=5).map("".join)


def push_all(stream: TokenStream, tokens: Sequence[int]) -> list[Piece]:
    return [piece for token in tokens for piece in stream.push(token)]


def plain(pieces: Sequence[Piece]) -> str:
    return "".join(piece.text for piece in pieces if not piece.special)


def decode(tokenizer: Any, tokens: Sequence[int]) -> str:
    return str(tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False))


def encode(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False))


def begins(whole: str, tokenizer: Any, tokens: Sequence[int]) -> list[str]:
    """For each number of tokens: the longest beginning of `whole` that they are known to spell.

    A decoder may turn several characters into U+FFFD when only the last one is incomplete, so that a beginning may
    have been longer with fewer tokens.
    """
    known = [""]
    for n in range(1, len(tokens) + 1):
        common = os.path.commonprefix([whole, decode(tokenizer, tokens[:n])])  # noqa: RUF071  # of strings
        known.append(max(known[-1], common, key=len))
    return known


@pytest.mark.parametrize("kind", KINDS)
def test_text_is_what_the_tokenizer_decodes_and_every_character_comes_with_its_last_byte(kind: str) -> None:
    tokenizer = tokenizer_of(kind)
    detokenizer = Detokenizer(tokenizer)

    @settings(max_examples=N_EXAMPLES, deadline=None)
    @given(st.lists(texts, min_size=1, max_size=3), st.sampled_from(tokenizer.all_special_ids))
    def check(turns: list[str], special: int) -> None:
        if kind in CONFUSES_REPLACEMENTS:
            turns = [text.replace(REPLACEMENT, "") for text in turns]
        tokens = encode(tokenizer, turns[0])
        for text in turns[1:]:
            tokens += [special, *encode(tokenizer, text)]
        whole = decode(tokenizer, tokens)
        known = begins(whole, tokenizer, tokens)
        stream, shown = detokenizer.stream(), ""
        for n, token in enumerate(tokens, 1):
            shown += plain(stream.push(token))
            assert whole.startswith(shown)
            ended = shown + plain(copy.copy(stream).finish())  # the reply could end here
            if kind in BYTE_KINDS:
                # The first bytes of U+FFFD decode to U+FFFD too, before it is complete.
                assert ended.rstrip(REPLACEMENT) == known[n].rstrip(REPLACEMENT)
            else:
                assert ended == decode(tokenizer, tokens[:n])
            if kind not in HOLDS_BACK:
                assert ended == shown
        assert ended == whole if tokens else not stream.finish()

    check()


@pytest.mark.parametrize("kind", KINDS)
def test_reply_ends_where_the_whole_text_has_its_first_stop_string(kind: str) -> None:
    tokenizer = tokenizer_of(kind)
    detokenizer = Detokenizer(tokenizer)

    @settings(max_examples=N_EXAMPLES, deadline=None)
    @given(st.lists(texts, min_size=1, max_size=3), st.sampled_from(tokenizer.all_special_ids), st.data())
    def check(turns: list[str], special: int, data: st.DataObject) -> None:
        tokens = [token for text in turns for token in [*encode(tokenizer, text), special]]
        stream = detokenizer.stream()
        pieces = [*push_all(stream, tokens), *stream.finish()]
        spelled = [(character, piece.special) for piece in pieces for character in piece.text]
        whole = "".join(character for character, _ in spelled)
        begin = data.draw(st.integers(0, len(whole) - 1))
        stop = whole[begin : begin + data.draw(st.integers(1, 12))]

        reply = ReplyText(detokenizer.stream(), PlainSections(), [stop])
        shown: list[tuple[str, str]] = []
        for token in itertools.takewhile(lambda _: not reply.stopped, tokens):
            shown += reply.push(token)
        shown += reply.finish()

        assert reply.stopped
        assert reply.text == "".join(text for _, text in shown)
        assert reply.text == "".join(c for c, is_special in spelled[: whole.find(stop)] if not is_special)

    check()
