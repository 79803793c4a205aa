"""The limit of open files is raised, some of them are reserved, and too few are a plain line."""

from __future__ import annotations

import subprocess
import sys

import pytest

from server.process.descriptors import for_connections
from tests.support.paths import ROOT

PROGRAM = """
import resource
from server.process.descriptors import TooFewDescriptors, raise_limit
try:
    print(raise_limit(), resource.getrlimit(resource.RLIMIT_NOFILE)[0])
except TooFewDescriptors as error:
    print(error)
"""


def limited(soft: int, hard: int) -> str:
    command = ["prlimit", f"--nofile={soft}:{hard}", sys.executable, "-c", PROGRAM]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_the_soft_limit_becomes_the_hard_one() -> None:
    assert limited(64, 512) == "512 512\n"
    assert limited(128, 128) == "128 128\n"


def test_too_few_descriptors_are_refused_in_words() -> None:
    assert "64 files" in limited(64, 64)


@pytest.mark.parametrize(("limit", "left"), [(96, 64), (128, 96), (1024, 768), (65_536, 65_280)])
def test_some_descriptors_are_never_connections(limit: int, left: int) -> None:
    assert for_connections(limit) == left
