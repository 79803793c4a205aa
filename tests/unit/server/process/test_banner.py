"""What a newcomer reads when the server is up."""

from __future__ import annotations

import socket
from dataclasses import replace
from pathlib import Path

import pytest

from server.process.banner import print_banner
from server.process.hardware import Machine
from tests.fakes import spec


def banner(capsys: pytest.CaptureFixture[str], first_key: str | None) -> str:
    specs = [spec("talker", "chat", default=True), replace(spec("painter", "image"), path=Path("painter"))]
    with socket.create_server(("127.0.0.1", 0)) as sock:
        print_banner(sock, [Machine("cpu", "cpu", 2**31)], specs, first_key)
        port = sock.getsockname()[1]
    said = capsys.readouterr().out
    assert f"http://localhost:{port}/api/generate" in said
    return said


def test_it_tells_the_device_each_models_size_and_which_is_not_downloaded(capsys: pytest.CaptureFixture[str]) -> None:
    said = banner(capsys, first_key=None)

    assert "cpu, 2.0 GiB for models" in said
    assert "painter, 1024 MiB" in said
    assert "talker (default), not downloaded yet" in said


def test_the_first_key_is_in_the_line_to_paste_and_a_later_start_has_a_place_for_ones_own(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert "Bearer an_first" in banner(capsys, first_key="an_first")
    assert "Bearer YOUR_API_KEY" in banner(capsys, first_key=None)
