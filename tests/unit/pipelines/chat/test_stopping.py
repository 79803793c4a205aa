"""Text of tokens: characters appear whole, and no part of a stop string is shown."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from pipelines.chat.stopping import ReplyText, StopStrings, TokenText


def from_bytes(tokens: list[int]) -> str:
    """A decoder whose tokens are bytes, the hardest case: one character may take four."""
    return bytes(tokens).decode("utf-8", "replace")


def bytewise_fallback(tokens: list[int]) -> str:
    """Decode as sentencepiece does: one replacement character for each byte of an incomplete character."""
    decoded, rest = "", bytes(tokens)
    while rest:
        for length in range(1, 5):
            try:
                decoded, rest = decoded + rest[:length].decode(), rest[length:]
                break
            except UnicodeDecodeError:
                continue
        else:
            decoded, rest = decoded + "\ufffd", rest[1:]
    return decoded


def words(tokens: list[int]) -> str:
    """A decoder that drops the space of the first token, as sentencepiece does."""
    return "".join(f" w{token}" for token in tokens).removeprefix(" ")


def test_emoji_appears_whole_with_its_last_byte() -> None:
    text = TokenText(from_bytes)
    assert [text.push(byte) for byte in "a😀é".encode()] == ["a", "", "", "", "😀", "", "é"]


def test_emoji_appears_whole_from_a_decoder_that_marks_every_byte() -> None:
    text = TokenText(bytewise_fallback)
    assert [text.push(byte) for byte in "a😀é".encode()] == ["a", "", "", "", "😀", "", "é"]


@given(st.text(st.characters(exclude_characters="\ufffd", exclude_categories=["Cs"])))
def test_pieces_of_any_text_join_to_it_and_never_hold_part_of_a_character(whole: str) -> None:
    text = TokenText(from_bytes)
    pieces = [text.push(byte) for byte in whole.encode()]
    assert "".join(pieces) == whole


@given(st.binary(max_size=40))
def test_bytes_that_are_not_text_become_replacement_characters_at_once(raw: bytes) -> None:
    text = TokenText(from_bytes)
    shown = "".join(text.push(byte) for byte in [*raw, ord("!")])
    assert shown == from_bytes([*raw, ord("!")])


def test_space_before_a_word_is_kept_though_the_decoder_drops_that_of_the_first_token() -> None:
    text = TokenText(words)
    assert [text.push(token) for token in (1, 2, 3, 4)] == ["w1", " w2", " w3", " w4"]


def test_decoder_gets_only_a_few_tokens_however_long_the_reply() -> None:
    lengths = []
    text = TokenText(lambda tokens: lengths.append(len(tokens)) or words(tokens))  # type: ignore[func-returns-value]
    for token in range(500):
        text.push(token)
    assert max(lengths) <= 3


def test_stop_string_is_found_across_pieces_and_nothing_of_it_is_shown() -> None:
    stops = StopStrings(["</end>"])
    assert [stops.push(piece) for piece in ("one <", "/e", "nd", ">two")] == ["one ", "", "", ""]
    assert stops.found
    assert stops.push("three") == ""
    assert stops.flush() == ""


def test_held_text_is_shown_once_it_cannot_become_a_stop_string() -> None:
    stops = StopStrings(["</end>"])
    assert [stops.push(piece) for piece in ("a </e", "lse>")] == ["a ", "</else>"]


def test_held_text_is_shown_when_the_reply_ends() -> None:
    stops = StopStrings(["\n\n"])
    assert stops.push("last line\n") == "last line"
    assert stops.flush() == "\n"


def test_empty_stop_string_stops_nothing() -> None:
    stops = StopStrings(["", "x"])
    assert stops.push("abc") == "abc"
    assert not stops.found


@given(
    st.text("abc", max_size=30),
    st.lists(st.text("abc", min_size=1, max_size=4), max_size=3),
    st.lists(st.integers(0, 30), max_size=8),
)
def test_where_text_is_cut_does_not_depend_on_its_pieces(whole: str, stops: list[str], cuts: list[int]) -> None:
    ends = [whole.find(stop) + len(stop) for stop in stops if stop in whole]
    expected = whole
    if ends:
        ended = whole[: min(ends)]
        expected = ended[: min(ended.find(stop) for stop in stops if ended.endswith(stop))]

    bounds = [0, *sorted(cut for cut in cuts if cut < len(whole)), len(whole)]
    matcher = StopStrings(stops)
    shown = [matcher.push(whole[a:b]) for a, b in itertools.pairwise(bounds)]

    assert "".join(shown) + matcher.flush() == expected
    assert matcher.found == bool(ends)


def test_reply_that_ends_inside_a_character_ends_before_it() -> None:
    reply = ReplyText(from_bytes, [])
    shown = [reply.push(byte) for byte in "ok😀".encode()[:-1]]
    assert "".join(shown) + reply.finish() == "ok"
    assert reply.text == "ok"
    assert not reply.stopped
