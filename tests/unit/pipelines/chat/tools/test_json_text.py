"""JSON that is followed while it comes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.chat.tools.json_text import MAX_DEPTH, JsonText, NotJson

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def read(text: str, size: int = 1_000_000) -> tuple[str, str]:
    """The JSON and what is behind it, with so many new characters each time."""
    value, at, out = JsonText(), 0, ""
    for end in [*range(size, len(text), size), len(text)]:
        more, at = value.read(text[:end], at, ended=end == len(text))
        out += more
        if value.complete:
            break
    assert value.complete
    return out, text[at:]


@given(VALUES, st.booleans(), st.sampled_from([None, 1]), st.integers(1, 7))
def test_all_json_is_passed_on_as_it_is(value: Any, is_ascii: bool, indent: int | None, size: int) -> None:
    text = json.dumps(value, ensure_ascii=is_ascii, indent=indent)

    assert read(text + " rest", size) == (text, " rest")


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ('"a\nb\tc"', "a\nb\tc"),
        (r'"\d+\.\w"', r"\d+\.\w"),
        (r'"it\'s"', "it's"),
        (r'"C:\Users \u12"', r"C:\Users \u12"),
        (r'"\u00fc\ud83d\ude00"', "ü😀"),
    ],
)
def test_usual_slips_inside_of_strings_are_mended(written: str, meant: str) -> None:
    for size in (1, 3, 100):
        assert json.loads(read(written, size)[0]) == meant


@pytest.mark.parametrize(
    ("text", "before"),
    [("{'a': 1}", "{"), ('{"a" 1}', '{"a" '), ("[1 2]", "[1 "), ("{,}", "{"), ("tru", ""), ("01", ""), ("[1,]", "[1,")],
)
def test_what_is_no_json_is_told_with_what_came_before(text: str, before: str) -> None:
    with pytest.raises(NotJson) as error:
        JsonText().read(text, 0, ended=True)
    assert error.value.args == (before, len(before))


def test_depth_is_bounded() -> None:
    with pytest.raises(NotJson):
        JsonText().read("[" * (MAX_DEPTH + 1), 0)
