"""The summary of a trace tells idle time, waits of the host inside the steps, and which kernels take the time."""

from __future__ import annotations

from benchmarks.kernel_trace import Interval, Trace, busy_ns, gaps, summary

MS = 1_000_000


def kernel(name: str, start_ms: float, end_ms: float) -> Interval:
    return Interval(name, int(start_ms * MS), int(end_ms * MS))


def test_kernels_that_overlap_on_two_streams_count_once() -> None:
    assert busy_ns([kernel("a", 0, 4), kernel("b", 2, 3), kernel("c", 3, 6), kernel("d", 8, 9)]) == 7 * MS


def test_gaps_are_the_times_in_which_no_stream_runs_a_kernel() -> None:
    found = gaps([kernel("a", 0, 4), kernel("b", 1, 2), kernel("c", 5, 6), kernel("d", 9, 10)])

    assert found == [(3 * MS, "c", "d"), (1 * MS, "a", "c")]


def test_a_summary_counts_idle_time_and_waits_but_not_the_wait_that_ends_the_trace() -> None:
    kernels = (kernel("gemm", 0, 6), kernel("Memcpy DtoH (Device -> Pinned)", 6, 7), kernel("gemm", 8, 10))
    calls = (
        kernel("cudaLaunchKernel", 0, 0.1),
        kernel("cudaStreamSynchronize", 1, 2),
        kernel("cudaLaunchKernel", 3, 3.1),
        kernel("cudaDeviceSynchronize", 4, 10),
    )
    found = summary(Trace(kernels, calls), steps=2)

    assert (found["step_ms"], found["idle_share"], found["kernels_per_step"]) == (5.0, 0.1, 1.5)
    assert (found["host_waits"], found["copies_to_host"]) == ({"cudaStreamSynchronize": 1}, 1)
    assert found["longest_kernels"][0] == {"name": "gemm", "ms_per_step": 4.0, "share": 0.889, "per_step": 1.0}


def test_a_trace_without_kernels_has_a_summary_too() -> None:
    assert summary(Trace((), ()), steps=1) == {"kernels": 0}
