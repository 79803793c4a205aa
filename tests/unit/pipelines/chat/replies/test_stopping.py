"""A reply ends before its first stop string, also one that names special tokens, and no part of it is shown."""

from __future__ import annotations

import itertools
import time

from hypothesis import given
from hypothesis import strategies as st

from pipelines.chat.replies.detokenize import Piece
from pipelines.chat.replies.stopping import StopStrings

END = Piece("<|im_end|>", special=True)


def push(stops: StopStrings, *texts: str) -> list[str]:
    """The text that comes out behind each text that goes in."""
    return ["".join(piece.text for piece in stops.push(Piece(text))) for text in texts]


def test_stop_string_is_found_across_pieces_and_nothing_of_it_is_shown() -> None:
    stops = StopStrings(["</end>"])
    assert push(stops, "one <", "/e", "nd>", "two") == ["one ", "", "", ""]
    assert stops.found == "</end>"
    assert stops.flush() == ()


def test_held_text_is_shown_once_it_cannot_become_a_stop_string() -> None:
    stops = StopStrings(["</end>"])
    assert push(stops, "a </e", "lse>") == ["a ", "</else>"]


def test_held_text_is_shown_when_the_reply_ends() -> None:
    stops = StopStrings(["\n\n"])
    assert push(stops, "last line\n") == ["last line"]
    assert stops.flush() == [Piece("\n")]
    assert not stops.flush()


def test_empty_stop_string_stops_nothing() -> None:
    stops = StopStrings(["", "x"])
    assert push(stops, "abc") == ["abc"]
    assert stops.found is None


def test_stop_string_that_is_a_special_token_stops() -> None:
    stops = StopStrings(["<|im_end|>"])
    assert stops.push(Piece("Hello there!")) == (Piece("Hello there!"),)
    assert not stops.push(END)
    assert stops.found == "<|im_end|>"


def test_of_stop_strings_that_are_complete_together_the_longest_is_reported() -> None:
    stops = StopStrings(["c", "abc", "bc"])

    assert push(stops, "xab", "c") == ["x", ""]
    assert stops.found == "abc"


def test_stop_string_begins_in_text_and_ends_in_a_special_token() -> None:
    stops = StopStrings(["!<|im_end|>\n"])
    shown = [stops.push(piece) for piece in (Piece("Hello there!"), END, Piece("\nuser"))]
    assert [list(pieces) for pieces in shown] == [[Piece("Hello there")], [], []]
    assert stops.found


def test_special_token_that_was_held_back_comes_out_marked() -> None:
    stops = StopStrings(["<|im_end|>\n"])
    assert not stops.push(END)
    assert stops.push(Piece(" and on")) == [END, Piece(" and on")]
    assert not stops.found


def test_text_before_a_stop_string_keeps_the_marks_of_its_pieces() -> None:
    stops = StopStrings(["<|im_end|>stop"])
    shown = [piece for new in (Piece("a"), END, END, Piece("stopped")) for piece in stops.push(new)]
    assert shown == [Piece("a"), END]


def test_of_stop_strings_that_are_complete_at_once_the_longest_counts() -> None:
    for strings in (["b", "ab"], ["ab", "b"]):
        assert push(StopStrings(strings), "xa", "b") == ["x", ""]


def test_text_is_held_back_for_the_stop_string_of_which_most_is_there() -> None:
    stops = StopStrings(["bbb", "abc"])
    assert push(stops, "xab", "bb") == ["x", "a"]
    assert stops.found


def test_long_text_that_may_become_a_stop_string_takes_time_in_proportion_to_it() -> None:
    def seconds(n: int) -> float:
        stops = StopStrings(["a" * n + "b", "ab" * n + "c"])
        start = time.process_time()
        for _ in range(2 * n):
            stops.push(Piece("a"))
        return time.process_time() - start

    assert min(seconds(8000) for _ in range(3)) < 20 * min(seconds(1000) for _ in range(3))


@given(
    st.text("abc", max_size=30),
    st.lists(st.text("abc", min_size=1, max_size=4), max_size=3),
    st.lists(st.tuples(st.integers(0, 30), st.booleans()), max_size=8),
)
def test_where_text_is_cut_does_not_depend_on_its_pieces(
    whole: str, strings: list[str], cuts: list[tuple[int, bool]]
) -> None:
    ends = [whole.find(stop) + len(stop) for stop in strings if stop in whole]
    expected, found = whole, None
    if ends:
        ended = whole[: min(ends)]
        found = max((stop for stop in strings if ended.endswith(stop)), key=len)
        expected = ended.removesuffix(found)

    marks = dict(cut for cut in cuts if cut[0] < len(whole))
    bounds = [0, *sorted(marks), len(whole)]
    pieces = [Piece(whole[a:b], marks.get(a, False)) for a, b in itertools.pairwise(bounds)]
    stops = StopStrings(strings)
    shown = [passed for piece in pieces for passed in stops.push(piece)] + list(stops.flush())

    assert "".join(piece.text for piece in shown) == expected
    assert stops.found == found
    marked = [piece.special for piece in pieces for _ in piece.text]
    assert [piece.special for piece in shown for _ in piece.text] == marked[: len(expected)]
