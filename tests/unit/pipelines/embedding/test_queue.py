"""Which texts share a forward: little padding, turns between requests, and a bound on the tokens."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.embedding.queue import EmbeddingQueue, padded_width
from pipelines.embedding_interface import EmbeddingRequest, TextTokens


def request(name: str, *lengths: int) -> EmbeddingRequest:
    return EmbeddingRequest(id=name, texts=tuple(TextTokens((1,) * n) for n in lengths))


def taken(queue: EmbeddingQueue, max_tokens: int, max_rows: int | None = None) -> tuple[int, list[tuple[str, int]]]:
    rows = queue.take(max_tokens, max_rows)
    return rows.width, [(row.request_id, row.index) for row in rows.rows]


@pytest.mark.parametrize(("n_tokens", "width"), [(1, 8), (8, 8), (9, 16), (64, 64), (65, 72), (200, 208), (513, 576)])
def test_a_text_is_padded_to_one_of_few_widths(n_tokens: int, width: int) -> None:
    assert padded_width(n_tokens) == width


def test_the_longest_texts_of_a_request_run_first_together_with_those_of_about_the_same_length() -> None:
    queue = EmbeddingQueue()
    queue.add(request("a", 10, 60, 58, 9, 100))

    assert taken(queue, 1000) == (104, [("a", 4)])
    assert taken(queue, 1000) == (64, [("a", 2), ("a", 1)])
    assert taken(queue, 1000) == (16, [("a", 3), ("a", 0)])
    assert not queue


def test_texts_of_other_requests_join_where_they_fill_the_width() -> None:
    queue = EmbeddingQueue()
    queue.add(request("a", 60))
    queue.add(request("b", 5, 57, 90))

    assert taken(queue, 1000) == (64, [("a", 0), ("b", 1)])
    assert taken(queue, 1000) == (96, [("b", 2)])
    assert taken(queue, 1000) == (8, [("b", 0)])


def test_requests_take_turns_so_that_a_short_one_does_not_wait_for_a_long_one() -> None:
    queue = EmbeddingQueue()
    queue.add(request("large", *[500] * 40))
    taken(queue, 1024)
    queue.add(request("small", 7))

    assert [taken(queue, 1024)[1][0][0] for _ in range(3)] == ["large", "small", "large"]


def test_a_forward_has_at_least_one_text_and_at_most_the_given_rows_and_tokens() -> None:
    queue = EmbeddingQueue()
    queue.add(request("a", *[100] * 5))

    assert len(taken(queue, 10)[1]) == 1
    assert len(taken(queue, 10_000, max_rows=2)[1]) == 2
    assert len(taken(queue, 208)[1]) == 2


def test_a_removed_request_runs_no_more() -> None:
    queue = EmbeddingQueue()
    queue.add(request("a", 5, 6))
    queue.add(request("b", 7))
    queue.remove("a")
    queue.remove("nobody")

    assert taken(queue, 1000) == (8, [("b", 0)])
    assert queue.peek(1000) is None


@given(
    st.lists(st.lists(st.integers(1, 700), min_size=1, max_size=20), min_size=1, max_size=5),
    st.integers(1, 2000),
    st.data(),
)
def test_every_text_runs_once_even_if_forwards_are_put_back(
    lengths: list[list[int]], max_tokens: int, data: st.DataObject
) -> None:
    queue, left = EmbeddingQueue(), 3
    for number, each in enumerate(lengths):
        queue.add(request(str(number), *each))
    ran: list[tuple[str, int]] = []
    while queue:
        peeked = queue.peek(max_tokens)
        rows = queue.take(max_tokens)
        assert rows == peeked
        assert len(rows.rows) == 1 or rows.width * len(rows.rows) <= max_tokens
        assert all(len(row.text.tokens) <= rows.width for row in rows.rows)
        if left and data.draw(st.booleans()):
            left -= 1
            queue.put_back(rows.rows)
        else:
            ran += [(row.request_id, row.index) for row in rows.rows]

    assert sorted(ran) == sorted((str(number), i) for number, each in enumerate(lengths) for i in range(len(each)))
