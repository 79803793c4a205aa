"""What a quantum will hold: exact where it was measured, a line between, a margin beyond, and a bound where it ran out."""

from server.memory.activations import Peaks
from server.protocol import Peak


def learned(*points: tuple[int, int, int], failed: bool = False) -> Peaks:
    """(units, rows, bytes) each."""
    peaks = Peaks()
    for units, rows, n_bytes in points:
        peaks.note(Peak("m", "vae.decode", str(units), units, rows, n_bytes, failed))
    return peaks


def predict(peaks: Peaks, units: int, rows: int = 1) -> int | None:
    return peaks.predict("m", "vae.decode", str(units), units, rows)


def test_nothing_measured_is_not_guessed() -> None:
    assert predict(Peaks(), 64) is None


def test_what_was_measured_is_told_as_it_was_and_the_largest_stays() -> None:
    assert predict(learned((64, 1, 500), (64, 1, 400)), 64) == 500


def test_between_two_sizes_lies_the_line_and_beyond_them_a_margin_is_added() -> None:
    peaks = learned((100, 1, 1100), (300, 1, 1300))

    assert predict(peaks, 200) == 1200
    assert predict(peaks, 400) == 1400 + 25


def test_one_size_alone_is_scaled_up_but_never_down() -> None:
    peaks = learned((100, 1, 1000))

    assert predict(peaks, 100, rows=2) == 2000
    assert predict(peaks, 50) == 1000


def test_what_ran_out_of_memory_takes_more_than_was_free() -> None:
    peaks = learned((100, 1, 1000))
    peaks.note(Peak("m", "vae.decode", "100", 100, 2, 5000, failed=True))

    assert predict(peaks, 100, rows=2) == 5001
    assert predict(peaks, 100, rows=4) == 5001
    assert predict(peaks, 100) == 1000


def test_news_are_told_once_and_what_is_restored_is_no_news() -> None:
    peaks = learned((64, 1, 500))
    news = peaks.take_news()
    again = Peaks()
    again.restore(news)

    assert [peak.peak_bytes for peak in news] == [500]
    assert peaks.take_news() == again.take_news() == []
    assert predict(again, 64) == 500
    assert again.one_row("m") == 500


def test_for_a_refusal_only_what_was_measured_counts_and_no_decode() -> None:
    peaks = learned((100, 1, 1000))
    assert peaks.at_least("m", "100", 100) == 0, "a decode can be done in tiles"
    peaks.note(Peak("m", "unet.forward", "100", 100, 1, 500))
    peaks.note(Peak("m", "unet.forward", "200", 200, 1, 800, failed=True))
    assert peaks.at_least("m", "100", 100) == 500
    assert peaks.at_least("m", "150", 150) == 500, "a larger one takes no less"
    assert peaks.at_least("m", "300", 300) == 800, "nor less than one that did not fit"
    assert peaks.at_least("m", "50", 50) == 0
    assert peaks.at_least("other", "100", 100) == 0
