"""Groups of a prompt that hold nothing are nothing, whatever their weights."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.diffusion.prompt_weights import Fragment, fragments

PIECES = st.sampled_from(["(", ")", ":1.2)", ":0)", ":.5)", "a", " ", "\\(", "\\)", "(:1.2)", ",", ""])


@pytest.mark.parametrize("prompt", ["(:1.2)", "(:1.2)(:1.3)", "((:1.2):0.5)", "(:0)", "(:0.5)(:1)"])
def test_a_prompt_of_empty_groups_is_an_empty_text(prompt: str) -> None:
    assert fragments(prompt) == (Fragment(""),)


def test_an_empty_group_beside_a_text_leaves_the_text() -> None:
    assert fragments("a cat (:1.2)") == (Fragment("a cat "),)


@given(st.lists(PIECES, max_size=12).map("".join))
def test_every_prompt_has_a_fragment_and_no_weight_below_zero(prompt: str) -> None:
    found = fragments(prompt)

    assert found
    assert all(fragment.weight >= 0 for fragment in found)
    assert len(found) == 1 or all(fragment.text for fragment in found)
