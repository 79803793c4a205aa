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
from tokenizers import Tokenizer, decoders, models
from transformers import AddedToken, PreTrainedTokenizerFast

from pipelines.chat.replies.detokenize import MAX_CONTEXT, MAX_PENDING, REPLACEMENT, Detokenizer, Piece, TokenStream
from pipelines.chat.replies.reply_text import PlainSections, ReplyText
from tests.support.tokenizer_kinds import (
    BYTE_KINDS,
    BYTES,
    KINDS,
    byte_fallback_bpe,
    byte_level_bpe,
    tokenizer_of,
)

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


def special_ids(tokenizer: Any) -> set[int]:
    added = tokenizer.added_tokens_decoder.items() if tokenizer.is_fast else ()
    return {*tokenizer.all_special_ids, *(token for token, options in added if options.special)}


def text_of_run(tokenizer: Any, tokens: Sequence[int]) -> str:
    """The text of tokens without special ones among them, in which no byte changes the text of its neighbors."""
    if BYTES[0] not in tokenizer.get_vocab():
        return decode(tokenizer, tokens)
    utf8 = b""
    for name in tokenizer.convert_ids_to_tokens(tokens):
        is_byte = name in BYTES
        utf8 += bytes.fromhex(name[3:5]) if is_byte else (name or "").replace("▁", " ").encode()
    return utf8.decode("utf-8", "replace")


class Decoding(Detokenizer):
    """Counts what is decoded."""

    n_decoded = 0  # times
    longest = 0  # tokens at once

    def decode(self, tokens: list[int]) -> str:
        self.n_decoded += 1
        self.longest = max(self.longest, len(tokens))
        return super().decode(tokens)


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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_any_tokens_in_any_order_have_the_text_that_the_tokenizer_decodes(kind: str) -> None:
    """Models also write what no tokenizer would: words from parts, ids that are no token, bytes that are no text."""
    tokenizer = tokenizer_of(kind)
    detokenizer = Detokenizer(tokenizer)
    n_ids = len(tokenizer) + (3 if tokenizer.is_fast else 0)  # models know more ids than their fast tokenizers
    usual = encode(tokenizer, "".join(SAMPLES))

    special = special_ids(tokenizer)

    @settings(max_examples=N_EXAMPLES, deadline=None)
    @given(st.lists(st.one_of(st.sampled_from(usual), st.integers(0, n_ids - 1)), max_size=24))
    def check(tokens: list[int]) -> None:
        stream = detokenizer.stream()
        pieces = [*push_all(stream, tokens), *stream.finish()]
        names = [tokenizer.convert_ids_to_tokens(token) for token in tokens if token in special]
        assert [piece.text for piece in pieces if piece.special] == names
        if kind in CONFUSES_REPLACEMENTS:
            whole = decode(tokenizer, tokens)
            assert plain(pieces).replace(REPLACEMENT, "") == whole.replace(REPLACEMENT, "")
        elif kind in BYTE_KINDS:
            runs = [list(run) for is_special, run in itertools.groupby(tokens, special.__contains__) if not is_special]
            whole = "".join(text_of_run(tokenizer, run) for run in runs)
            whole, shown = whole.lstrip(" "), plain(pieces).lstrip(" ")  # decoders drop a space before the first word
            assert whole in (shown + n * REPLACEMENT for n in range(3))  # an incomplete character at the end
        else:
            assert plain(pieces) == decode(tokenizer, tokens)

    check()


def byte_tokens(tokenizer: Any, utf8: bytes) -> list[int]:
    return [tokenizer.convert_tokens_to_ids(f"<0x{byte:02X}>") for byte in utf8]


@given(st.lists(st.one_of(st.binary(min_size=1, max_size=6), st.text("ab 你😀", max_size=4)), max_size=8))
@settings(max_examples=N_EXAMPLES)
def test_bytes_that_are_no_text_are_replaced_and_their_neighbors_stay(parts: list[bytes | str]) -> None:
    utf8 = b"".join(part if isinstance(part, bytes) else part.encode() for part in parts)
    tokenizer = tokenizer_of("BPE with byte fallback")
    letter = tokenizer.convert_tokens_to_ids("e")
    stream = Detokenizer(tokenizer).stream()
    shown = plain(push_all(stream, [letter, *byte_tokens(tokenizer, utf8), letter]))
    assert shown == "e" + utf8.decode("utf-8", "replace") + "e"


def test_characters_of_a_run_of_byte_tokens_come_out_one_by_one() -> None:
    """Decoded as one run, an incomplete last character turns all of them into U+FFFD."""
    tokenizer = tokenizer_of("BPE with byte fallback")
    stream = Detokenizer(tokenizer).stream()
    shown = [plain(stream.push(token)) for token in byte_tokens(tokenizer, "你好🇩🇪".encode())]
    assert shown == ["", "", "你", "", "", "好", "", "", "", "🇩", "", "", "", "🇪"]


@pytest.mark.parametrize("kind", BYTE_KINDS)
def test_endless_bytes_that_are_no_text_are_neither_held_back_nor_decoded_again(kind: str) -> None:
    tokenizer = tokenizer_of(kind)
    first = {"SmolLM2": "ð", "byte-level BPE": "ð", "bytes in Python": "ð"}.get(kind, "<0xF0>")
    detokenizer = Decoding(tokenizer)
    stream = detokenizer.stream()
    shown = plain(push_all(stream, [tokenizer.convert_tokens_to_ids(first)] * 400))
    assert set(shown) <= {REPLACEMENT}
    assert len(shown) >= 397 or kind == "bytes in Python"  # has no text for them
    assert detokenizer.longest <= MAX_CONTEXT + MAX_PENDING + 2


@pytest.mark.parametrize("kind", KINDS)
def test_only_a_few_tokens_are_decoded_however_long_the_reply(kind: str) -> None:
    tokenizer = tokenizer_of(kind)
    detokenizer = Decoding(tokenizer)
    tokens = encode(tokenizer, "the server keeps a model in memory 你好 " * 30)
    plain(push_all(detokenizer.stream(), tokens))
    assert len(tokens) > 200
    assert detokenizer.longest <= MAX_CONTEXT + 8


def test_tokenizer_is_asked_once_for_each_token() -> None:
    tokenizer = tokenizer_of("byte-level BPE")
    detokenizer = Decoding(tokenizer)
    assert detokenizer.n_decoded == 0  # also a large vocabulary costs nothing at first
    tokens = encode(tokenizer, "the server keeps the model, and the server keeps the queue ")
    push_all(detokenizer.stream(), tokens)
    n_decoded = detokenizer.n_decoded
    push_all(detokenizer.stream(after_text=True), tokens * 10)
    assert n_decoded == detokenizer.n_decoded <= 3 * len(set(tokens))


@pytest.mark.parametrize("kind", BYTE_KINDS)
def test_reply_that_ends_inside_a_character_ends_before_it(kind: str) -> None:
    tokenizer = tokenizer_of(kind)
    tokens = encode(tokenizer, "ok 𐍈")
    stream = Detokenizer(tokenizer).stream()
    shown = plain(push_all(stream, tokens[:-1]))
    assert plain([Piece(shown), *stream.finish()]).rstrip() == "ok"
    assert not stream.finish()


def test_special_token_inside_a_character_ends_it() -> None:
    tokenizer = tokenizer_of("byte-level BPE")
    tokens = [*encode(tokenizer, "a😀")[:-1], tokenizer.eos_token_id, *encode(tokenizer, "b")]
    pieces = push_all(Detokenizer(tokenizer).stream(), tokens)
    assert pieces == [Piece("a"), Piece(REPLACEMENT), Piece("</s>", special=True), Piece("b")]


def test_replacement_character_that_the_model_wrote_is_text() -> None:
    for kind in set(KINDS) - CONFUSES_REPLACEMENTS:
        tokenizer = tokenizer_of(kind)
        stream = Detokenizer(tokenizer).stream()
        assert plain(push_all(stream, encode(tokenizer, REPLACEMENT))) == REPLACEMENT, kind


def test_reply_that_goes_on_with_text_keeps_the_space_before_its_first_word() -> None:
    spaced = {"byte-level BPE", "SmolLM2", "BPE with byte fallback", "Unigram", "WordPiece", "BPE with suffixes"}
    for kind in spaced:
        tokenizer = tokenizer_of(kind)
        tokens = encode(tokenizer, " the server" if kind in BYTE_KINDS else "the server")
        streams = [Detokenizer(tokenizer).stream(after_text=after_text) for after_text in (True, False)]
        after_text, alone = (plain(push_all(stream, tokens)) for stream in streams)
        assert after_text.strip(" ") == alone.strip(" ") == "the server", kind
        assert after_text.startswith(" "), kind


@pytest.mark.parametrize("kind", KINDS)
def test_ids_that_are_no_token_have_no_text(kind: str) -> None:
    tokenizer = tokenizer_of(kind)
    if not tokenizer.is_fast:
        pytest.skip("raises for them when it decodes")
    detokenizer = Detokenizer(tokenizer)
    stream = detokenizer.stream()
    tokens = [len(tokenizer), *encode(tokenizer, "the"), len(tokenizer) + 5, *encode(tokenizer, "a")]
    assert plain([*push_all(stream, tokens), *stream.finish()]) == decode(tokenizer, tokens)
    assert (detokenizer.text_of(len(tokenizer)), detokenizer.utf8_of(len(tokenizer))) == ("", b"")


def test_bytes_of_a_token_are_exact_also_of_a_part_of_a_character() -> None:
    detokenizer = Detokenizer(tokenizer_of("byte-level BPE"))
    tokens = encode(tokenizer_of("byte-level BPE"), "the server 🇩")
    assert b"".join(map(detokenizer.utf8_of, tokens)) == "the server 🇩".encode()
    assert [detokenizer.text_of(token) for token in tokens][:2] == ["the", " server"]
    assert detokenizer.text_of(tokens[-1]) == ""


def test_space_before_a_word_belongs_to_its_token_and_a_special_token_is_spelled_out() -> None:
    for kind in ("BPE with byte fallback", "Unigram", "Unigram with byte fallback"):
        tokenizer = tokenizer_of(kind)
        detokenizer = Detokenizer(tokenizer)
        tokens = [*encode(tokenizer, "the server 🇩"), tokenizer.eos_token_id]
        joined = b"".join(map(detokenizer.utf8_of, tokens)).decode()
        assert joined == (" the server 🇩</s>" if kind in BYTE_KINDS else " the server <unk></s>")
        assert detokenizer.text_of(tokens[0]) == " the"


def test_token_whose_text_depends_on_the_next_one_has_its_own_text_alone() -> None:
    tokenizer = tokenizer_of("BPE in Python")
    detokenizer = Detokenizer(tokenizer)
    assert detokenizer.text_of(tokenizer.convert_tokens_to_ids("t@@")) == "t@@"
    stream = detokenizer.stream()
    shown = [plain(stream.push(tokenizer.convert_tokens_to_ids(name))) for name in ("the", "t@@", "he", "t@@")]
    assert shown == ["the", " t", "he", " t"]
    assert [plain(stream.finish()), plain(stream.finish())] == ["@@", ""]


def test_checkpoint_whose_names_look_like_bytes_keeps_them() -> None:
    tokenizer = byte_level_bpe()
    tokenizer.add_tokens(["<0xE4>", "é<x> y"])
    stream = Detokenizer(tokenizer).stream()
    tokens = [*encode(tokenizer, "a <0xE4>é<x> y")]
    assert tokenizer.convert_tokens_to_ids("<0xE4>") in tokens
    assert plain(push_all(stream, tokens)) == "a <0xE4>é<x> y"


def test_tokens_that_the_tokenizer_shows_are_text_though_they_look_special() -> None:
    """An added token that decodes to nothing when alone; an ordinary word with a role, which decoders do not skip."""
    added, named = byte_fallback_bpe(), byte_level_bpe()
    added.add_tokens([AddedToken("▁", special=False, normalized=False)])
    named.pad_token = "e"
    for tokenizer, name in ((added, "▁"), (named, "e")):
        tokens = [*encode(tokenizer, "the"), tokenizer.convert_tokens_to_ids(name), *encode(tokenizer, "the")]
        pieces = push_all(Detokenizer(tokenizer).stream(), tokens)
        assert not any(piece.special for piece in pieces)
        assert plain(pieces) == decode(tokenizer, tokens) == ("the  the" if name == "▁" else "theethe")


@pytest.mark.parametrize(
    "decoder",
    [
        decoders.Sequence([decoders.Fuse(), decoders.Strip("a", 3, 0)]),
        decoders.Sequence([decoders.Fuse(), decoders.Strip("b", 0, 1)]),
        decoders.CTC(pad_token="a", word_delimiter_token="b", cleanup=True),
        decoders.Sequence([decoders.ByteLevel(), decoders.Replace("a", "")]),
        decoders.Sequence([decoders.ByteLevel(), decoders.Strip("a", 2, 0), decoders.Fuse()]),
        decoders.Sequence([decoders.ByteLevel(), decoders.Fuse(), decoders.Strip("a", 1, 0)]),
        decoders.Sequence([decoders.Replace("ab", "x"), decoders.Strip("a", 1, 0)]),
    ],
)
def test_decoder_that_changes_tokens_by_their_neighbors_has_the_last_word(decoder: Any) -> None:
    vocabulary = {"a": 0, "b": 1, "c": 2, "ab": 3}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(vocabulary, unk_token="c")))
    tokenizer.backend_tokenizer.decoder = decoder
    detokenizer = Detokenizer(tokenizer)
    for tokens in itertools.product(range(4), repeat=5):
        stream = detokenizer.stream()
        assert plain([*push_all(stream, tokens), *stream.finish()]) == decode(tokenizer, tokens)
