"""Python source is parsed by several threads at once."""

from __future__ import annotations

import ast
import threading
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


def test_threads_that_parse_at_once_all_get_their_tree() -> None:
    text = "\n".join(f"def f{i}(a=1, *b, **c): return [x for x in b if a]" for i in range(200))
    failed: list[BaseException] = []

    def work() -> None:
        try:
            assert len(parse(text).body) == 200
        except BaseException as error:  # noqa: BLE001  # a thread's error would be lost
            failed.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failed == []
