"""Merging goes as wide as it gains something."""

from server.widths import Widths, bucket_of


def measured(**seconds: float) -> Widths:
    widths = Widths()
    for rows, forward_s in seconds.items():
        for _ in range(5):
            widths.note("m", "s", int(rows[1:]), forward_s)
    return widths


def test_the_first_step_runs_alone_and_then_widths_are_tried_by_doubling() -> None:
    assert Widths().useful("m", "s") == 1
    assert measured(w1=1.0).useful("m", "s") == 2
    assert measured(w1=1.0, w2=1.2).useful("m", "s") == 4


def test_a_width_that_gains_nothing_ends_it() -> None:
    assert measured(w1=1.0, w2=1.96).useful("m", "s") == 1
    assert measured(w1=1.0, w2=1.2, w4=2.39).useful("m", "s") == 2


def test_rows_run_in_buckets() -> None:
    assert [bucket_of(rows) for rows in (1, 2, 3, 5, 8)] == [1, 2, 4, 8, 8]
