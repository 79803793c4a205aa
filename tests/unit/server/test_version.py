from __future__ import annotations

from importlib import metadata

import pytest

from server import version


def test_an_installed_program_tells_the_version_of_its_package() -> None:
    assert version.program_version() == metadata.version("agentname")


def test_a_checkout_that_is_not_installed_says_so_instead_of_failing(monkeypatch: pytest.MonkeyPatch) -> None:
    def not_installed(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(version, "version", not_installed)
    assert version.program_version() == "from source"
