"""Predictions of the next load's time: the median of the last loads, without a first load that includes imports."""

from server.scheduling.load_times import LoadTimes

GB = 10**9


def test_the_next_load_is_expected_to_take_the_median_of_the_last_ones() -> None:
    load_times = LoadTimes()
    for seconds in (9.0, 2.0, 3.0):
        load_times.loaded("m", 2 * GB, seconds)

    assert load_times.expected_s("m", 2 * GB) == 3.0


def test_a_first_load_that_took_far_longer_than_its_size_explains_is_ignored() -> None:
    load_times = LoadTimes()
    load_times.loaded("m", 1 * GB, 5.0)
    load_times.loaded("n", 1 * GB, 1.0)

    assert load_times.expected_s("m", 1 * GB) == 1.0


def test_the_share_of_reading_in_the_last_load_is_expected_of_the_next_one() -> None:
    load_times = LoadTimes()
    assert load_times.read_share("m") == 0.0
    load_times.loaded("m", 1 * GB, 4.0, read_s=3.0)

    assert load_times.read_share("m") == 0.75
