"""Merging goes as wide as it gains something."""

from server.scheduling.batch_size import BatchSizes, bucket_of


def measured(**seconds: float) -> BatchSizes:
    batch_sizes = BatchSizes()
    for rows, forward_s in seconds.items():
        for _ in range(5):
            batch_sizes.note("m", "s", int(rows[1:]), forward_s)
    return batch_sizes


def test_the_first_step_runs_alone_and_then_widths_are_tried_by_doubling() -> None:
    assert BatchSizes().useful("m", "s") == 1
    assert measured(w1=1.0).useful("m", "s") == 2
    assert measured(w1=1.0, w2=1.2).useful("m", "s") == 4


def test_a_width_that_gains_nothing_ends_it() -> None:
    assert measured(w1=1.0, w2=1.96).useful("m", "s") == 1
    assert measured(w1=1.0, w2=1.2, w4=2.39).useful("m", "s") == 2


def test_a_narrow_width_that_gains_nothing_does_not_hide_a_wide_one_that_does() -> None:
    assert measured(w1=1.0, w2=2.5, w4=1.6).useful("m", "s") == 8


def test_disturbances_do_not_end_a_width() -> None:
    batch_sizes = measured(w1=1.0, w2=1.2)
    for seconds in (9.0, 9.0, 1.2):
        batch_sizes.note("m", "s", 2, seconds)

    assert batch_sizes.useful("m", "s") == 4


def test_the_first_forward_of_a_width_says_nothing_once_there_is_a_second() -> None:
    batch_sizes = BatchSizes()
    for seconds in (30.0, 1.0):
        batch_sizes.note("m", "s", 1, seconds)

    assert batch_sizes.expected_row_s("m", "s", 1) == 1.0


def test_a_width_never_tried_is_expected_to_gain_what_it_gains_others() -> None:
    batch_sizes = measured(w1=2.0)
    assert batch_sizes.expected_row_s("m", "s", 8) == 2.0  # nobody knows
    assert batch_sizes.expected_row_s("n", "s", 8) is None
    for rows, forward_s in ((1, 1.0), (1, 1.0), (8, 2.0), (8, 2.0)):
        batch_sizes.note("n", "s", rows, forward_s)

    assert batch_sizes.expected_row_s("m", "s", 8) == 0.5


def test_a_width_never_tried_gains_no_more_than_the_one_before_it_did() -> None:
    batch_sizes = measured(w1=2.0, w2=3.92)
    for rows, forward_s in ((2, 1.0), (2, 1.0), (8, 2.0), (8, 2.0)):
        batch_sizes.note("n", "s", rows, forward_s)
    for _ in range(3):
        batch_sizes.note("m", "s", 2, 3.6)  # a little quicker by chance: four are to be tried

    assert batch_sizes.useful("m", "s") == 4
    assert (batch_sizes.expected_row_s("m", "s", 4) or 0) > 1.6  # others gained half


def test_what_slows_the_machine_down_is_expected_to_go_on_for_every_model() -> None:
    batch_sizes = measured(w1=1.0)
    for _ in range(100):
        batch_sizes.note("n", "s", 1, 2.0)
    quiet = batch_sizes.expected_row_s("m", "s", 1) or 0
    for _ in range(100):
        batch_sizes.note("n", "s", 1, 3.0)
    slowed = batch_sizes.expected_row_s("m", "s", 1) or 0

    assert quiet == 1.0
    assert 1.15 < slowed < 1.5


def test_what_holds_it_up_for_a_moment_is_not_taken_for_its_pace() -> None:
    batch_sizes = measured(w1=1.0)
    for _ in range(2000):
        batch_sizes.note("n", "s", 1, 0.02)
    for _ in range(20):
        batch_sizes.note("n", "s", 1, 0.06)

    assert 1.0 < (batch_sizes.expected_row_s("m", "s", 1) or 0) < 1.15


def test_rows_run_in_buckets() -> None:
    assert [bucket_of(rows) for rows in (1, 2, 3, 5, 8)] == [1, 2, 4, 8, 8]
