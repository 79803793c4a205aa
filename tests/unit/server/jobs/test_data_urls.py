"""Base64 is decoded piece by piece, with the same result as at once."""

from __future__ import annotations

import base64

import pytest

from server.jobs.inputs import references
from server.jobs.inputs.references import NoReference, decoded_base64

DATA = bytes(range(256)) * 3 + b"ab"


@pytest.mark.parametrize("piece", [1, 5, 64, 1 << 20])
@pytest.mark.parametrize("n_bytes", [0, 1, 2, 3, 770])
def test_pieces_of_any_size_give_the_same_bytes(monkeypatch: pytest.MonkeyPatch, piece: int, n_bytes: int) -> None:
    monkeypatch.setattr(references, "PIECE", piece)
    text = base64.encodebytes(DATA[:n_bytes]).decode()  # with lines

    assert decoded_base64("data:," + text, 6, 1000) == DATA[:n_bytes]


@pytest.mark.parametrize("piece", [1, 4, 6, 1 << 20])
@pytest.mark.parametrize("text", ["AA==AAAA", "AAA", "A", "AAAA*AAA", "AAA=A", "ÄAAA", "=AAA", "AAAA=AAA"])
def test_damaged_base64_is_refused_wherever_pieces_end(monkeypatch: pytest.MonkeyPatch, piece: int, text: str) -> None:
    monkeypatch.setattr(references, "PIECE", piece)

    with pytest.raises(NoReference):
        decoded_base64(text, 0, 1000)
