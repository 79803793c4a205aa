"""Tests that need CUDA."""

from __future__ import annotations

import os

import pytest


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Prints a failure when it happens: on a lent machine, the run may be ended before pytest's summary."""
    if report.failed and "GPU_RUN_STEP" in os.environ:
        print(f"\n{report.longreprtext[-3000:]}", flush=True)  # noqa: T201
