"""How long the next load will take: as the last ones did, but for what only the first one pays."""

from server.loads import Loads

GB = 10**9


def test_the_next_load_takes_what_the_last_ones_took_in_the_middle() -> None:
    loads = Loads()
    for seconds in (9.0, 2.0, 3.0):
        loads.loaded("m", 2 * GB, seconds)

    assert loads.expected_s("m", 2 * GB) == 3.0


def test_a_first_load_that_paid_for_imports_is_not_taken_for_the_next() -> None:
    loads = Loads()
    loads.loaded("m", 1 * GB, 5.0)
    loads.loaded("n", 1 * GB, 1.0)

    assert loads.expected_s("m", 1 * GB) == 1.0


def test_files_that_were_read_beside_the_rest_are_that_share_of_the_next_load() -> None:
    loads = Loads()
    assert loads.read_share("m") == 0.0
    loads.loaded("m", 1 * GB, 4.0, read_s=3.0)

    assert loads.read_share("m") == 0.75
