"""The exit codes are those of the documentation."""

from __future__ import annotations

from server import client
from server.cli.exit_codes import Exit, exit_of
from tests.support.paths import ROOT


def test_every_exit_code_is_documented() -> None:
    document = (ROOT / "docs" / "client.md").read_text()

    assert all(f"| {int(code)} |" in document for code in Exit)
    assert exit_of(client.NoKey()) == Exit.NO_SERVER
