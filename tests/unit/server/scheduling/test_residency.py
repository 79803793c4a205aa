"""How long the next load will take: as the last ones did, but for what only the first one pays."""

from server.scheduling.load_times import LoadTimes

GB = 10**9


def test_the_next_load_takes_what_the_last_ones_took_in_the_middle() -> None:
    load_times = LoadTimes()
    for seconds in (9.0, 2.0, 3.0):
        load_times.loaded("m", 2 * GB, seconds)

    assert load_times.expected_s("m", 2 * GB) == 3.0


def test_a_first_load_that_paid_for_imports_is_not_taken_for_the_next() -> None:
    load_times = LoadTimes()
    load_times.loaded("m", 1 * GB, 5.0)
    load_times.loaded("n", 1 * GB, 1.0)

    assert load_times.expected_s("m", 1 * GB) == 1.0


def test_files_that_were_read_beside_the_rest_are_that_share_of_the_next_load() -> None:
    load_times = LoadTimes()
    assert load_times.read_share("m") == 0.0
    load_times.loaded("m", 1 * GB, 4.0, read_s=3.0)

    assert load_times.read_share("m") == 0.75
