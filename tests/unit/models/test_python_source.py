"""Python source is parsed by several threads at once."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

from models.python_source import TRIES, parse


def test_a_parser_that_fails_because_of_another_thread_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes: Iterator[Exception | None] = iter([SystemError("AST constructor recursion depth mismatch"), None])
    whole = ast.parse("x = 1")

    def flaky(text: str) -> ast.Module:
        if (error := next(outcomes)) is not None:
            raise error
        return whole

    monkeypatch.setattr(ast, "parse", flaky)

    assert parse("x = 1") is whole


def test_a_parser_that_always_fails_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    tries = []

    def broken(text: str) -> ast.Module:
        tries.append(text)
        raise SystemError

    monkeypatch.setattr(ast, "parse", broken)
    with pytest.raises(SystemError):
        parse("x = 1")

    assert len(tries) == TRIES
