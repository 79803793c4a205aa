"""Forwards get as wide as each doubling still saves seconds per row."""

from server.scheduling.batch_size import BatchSizes, bucket_of


def measured(**seconds: float) -> BatchSizes:
    """Returns batch sizes of model "m" and shape "s". seconds: of a forward of so many rows, `w4` for four."""
    batch_sizes = BatchSizes()
    for rows, forward_s in seconds.items():
        for _ in range(5):
            batch_sizes.record("m", "s", int(rows[1:]), forward_s)
    return batch_sizes


def test_the_first_forward_has_one_row_and_then_widths_are_tried_by_doubling() -> None:
    assert BatchSizes().useful_width("m", "s") == 1
    assert measured(w1=1.0).useful_width("m", "s") == 2
    assert measured(w1=1.0, w2=1.2).useful_width("m", "s") == 4


def test_no_wider_width_is_tried_after_one_that_gained_nothing() -> None:
    assert measured(w1=1.0, w2=1.96).useful_width("m", "s") == 1
    assert measured(w1=1.0, w2=1.2, w4=2.39).useful_width("m", "s") == 2


def test_a_wide_width_that_gains_is_useful_although_a_narrower_one_gains_nothing() -> None:
    assert measured(w1=1.0, w2=2.5, w4=1.6).useful_width("m", "s") == 8


def test_a_few_slow_forwards_do_not_make_a_width_useless() -> None:
    batch_sizes = measured(w1=1.0, w2=1.2)
    for seconds in (9.0, 9.0, 1.2):
        batch_sizes.record("m", "s", 2, seconds)

    assert batch_sizes.useful_width("m", "s") == 4


def test_the_first_forward_of_a_width_is_ignored_once_there_is_a_second() -> None:
    batch_sizes = BatchSizes()
    for seconds in (30.0, 1.0):
        batch_sizes.record("m", "s", 1, seconds)

    assert batch_sizes.expected_s_per_row("m", "s", 1) == 1.0


def test_a_width_that_never_ran_is_expected_to_gain_what_it_gains_for_other_models() -> None:
    batch_sizes = measured(w1=2.0)
    assert batch_sizes.expected_s_per_row("m", "s", 8) == 2.0  # no model ran eight rows yet
    assert batch_sizes.expected_s_per_row("n", "s", 8) is None
    for rows, forward_s in ((1, 1.0), (1, 1.0), (8, 2.0), (8, 2.0)):
        batch_sizes.record("n", "s", rows, forward_s)

    assert batch_sizes.expected_s_per_row("m", "s", 8) == 0.5


def test_a_width_that_never_ran_is_expected_to_gain_no_more_than_the_last_doubling_did() -> None:
    batch_sizes = measured(w1=2.0, w2=3.92)
    for rows, forward_s in ((2, 1.0), (2, 1.0), (8, 2.0), (8, 2.0)):
        batch_sizes.record("n", "s", rows, forward_s)
    for _ in range(3):
        batch_sizes.record("m", "s", 2, 3.6)  # a little faster by chance, so that four rows are tried next

    assert batch_sizes.useful_width("m", "s") == 4
    assert (batch_sizes.expected_s_per_row("m", "s", 4) or 0) > 1.6  # the other model gained half


def test_a_lasting_slowdown_of_one_model_is_expected_of_all_models() -> None:
    batch_sizes = measured(w1=1.0)
    for _ in range(100):
        batch_sizes.record("n", "s", 1, 2.0)
    before = batch_sizes.expected_s_per_row("m", "s", 1) or 0
    for _ in range(100):
        batch_sizes.record("n", "s", 1, 3.0)
    slowed = batch_sizes.expected_s_per_row("m", "s", 1) or 0

    assert before == 1.0
    assert 1.15 < slowed < 1.5


def test_a_short_slowdown_hardly_changes_what_is_expected() -> None:
    batch_sizes = measured(w1=1.0)
    for _ in range(2000):
        batch_sizes.record("n", "s", 1, 0.02)
    for _ in range(20):
        batch_sizes.record("n", "s", 1, 0.06)

    assert 1.0 < (batch_sizes.expected_s_per_row("m", "s", 1) or 0) < 1.15


def test_the_width_of_a_forward_is_its_rows_rounded_up_to_a_power_of_two() -> None:
    assert [bucket_of(rows) for rows in (1, 2, 3, 5, 8)] == [1, 2, 4, 8, 8]
