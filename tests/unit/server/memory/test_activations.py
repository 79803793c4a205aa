"""Predictions of activation memory: as measured, on a line between measurements, with a margin beyond them."""

from pipelines.interface import IN_TILES
from server.memory.activations import Peaks
from server.protocol import Peak


def learned(*points: tuple[int, int, int], failed: bool = False) -> Peaks:
    """points: (units, rows, bytes)."""
    peaks = Peaks()
    for units, rows, n_bytes in points:
        peaks.record(Peak("m", "vae.decode", str(units), units, rows, n_bytes, failed))
    return peaks


def predict(peaks: Peaks, units: int, rows: int = 1) -> int | None:
    return peaks.predict("m", "vae.decode", str(units), units, rows)


def test_without_a_measurement_there_is_no_prediction() -> None:
    assert predict(Peaks(), 64) is None


def test_a_measured_shape_is_predicted_as_its_largest_measurement() -> None:
    assert predict(learned((64, 1, 500), (64, 1, 400)), 64) == 500


def test_a_size_between_two_measured_ones_is_on_their_line_and_a_larger_one_gets_a_margin() -> None:
    peaks = learned((100, 1, 1100), (300, 1, 1300))

    assert predict(peaks, 200) == 1200
    assert predict(peaks, 400) == 1400 + 25


def test_a_single_measured_size_is_scaled_up_but_never_down() -> None:
    peaks = learned((100, 1, 1000))

    assert predict(peaks, 100, rows=2) == 2000
    assert predict(peaks, 50) == 1000


def test_a_forward_that_ran_out_of_memory_is_predicted_to_need_more_than_was_free() -> None:
    peaks = learned((100, 1, 1000))
    peaks.record(Peak("m", "vae.decode", "100", 100, 2, 5000, failed=True))

    assert predict(peaks, 100, rows=2) == 5001
    assert predict(peaks, 100, rows=4) == 5001
    assert predict(peaks, 100) == 1000


def test_new_peaks_are_returned_once_and_restored_ones_are_not_new() -> None:
    peaks = learned((64, 1, 500))
    new = peaks.take_new()
    restored = Peaks()
    restored.restore(new)

    assert [peak.peak_bytes for peak in new] == [500]
    assert peaks.take_new() == restored.take_new() == []
    assert predict(restored, 64) == 500
    assert restored.max_row_bytes("m") == 500


def test_what_a_forward_holds_at_least_rests_on_measurements_of_its_shape_or_smaller_ones() -> None:
    peaks = learned((100, 1, 1000))
    entry = "vae.decode"
    assert peaks.at_least("m", entry, "50", 50) == 0
    assert peaks.at_least("m", entry, "100", 100) == 1000
    assert peaks.at_least("m", entry, "400", 400) == 1000, "not what a line through it predicts"
    peaks.record(Peak("m", entry, "200", 200, 1, 3000, failed=True))
    assert peaks.at_least("m", entry, "400", 400) == 3001
    assert peaks.at_least("m", entry, "200", 200) == 3001
    peaks.record(Peak("m", entry, "200", 200, 1, 2000))
    assert peaks.at_least("m", entry, "200", 200) == 2000, "it has run since"
    assert peaks.at_least("m", entry, "100", 100) == 1000
    peaks.record(Peak("m", f"{entry}{IN_TILES}", "300", 300, 1, 700))
    assert peaks.lower_bound("m", "300", 300) == 0


def test_the_lower_bound_of_a_request_counts_measurements_only_and_no_decodes() -> None:
    peaks = learned((100, 1, 1000))
    assert peaks.lower_bound("m", "100", 100) == 0, "a decode can be done in tiles"
    peaks.record(Peak("m", "unet.forward", "100", 100, 1, 500))
    peaks.record(Peak("m", "unet.forward", "200", 200, 1, 800, failed=True))
    assert peaks.lower_bound("m", "100", 100) == 500
    assert peaks.lower_bound("m", "150", 150) == 500, "a larger shape needs no less"
    assert peaks.lower_bound("m", "300", 300) == 800, "nor less than a smaller one that did not fit"
    assert peaks.lower_bound("m", "50", 50) == 0
    assert peaks.lower_bound("other", "100", 100) == 0
