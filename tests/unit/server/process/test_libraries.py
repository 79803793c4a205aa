"""The libraries are imported by one thread, while others wait."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from server.process.libraries import TORCH_ENVIRONMENT, import_libraries, keep_compiled_code, stop_compilers


def test_a_second_thread_waits_until_the_first_has_imported_the_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    importing, may_end = threading.Event(), threading.Event()
    order: list[str] = []

    def quiet_libraries() -> None:
        if not order:
            importing.set()
            assert may_end.wait(10)
        order.append(threading.current_thread().name)

    monkeypatch.setitem(sys.modules, "models.loading.load", SimpleNamespace(quiet_libraries=quiet_libraries))
    first, second = (threading.Thread(target=import_libraries, name=name) for name in ("first", "second"))
    first.start()
    assert importing.wait(10)
    second.start()
    second.join(0.05)
    assert second.is_alive()
    may_end.set()
    for thread in (first, second):
        thread.join(10)

    assert order == ["first", "second"]


def test_torchs_environment_is_set_before_the_libraries_and_what_the_user_set_stays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: dict[str, str] = {}
    loading = SimpleNamespace(quiet_libraries=lambda: seen.update(os.environ))
    monkeypatch.setitem(sys.modules, "models.loading.load", loading)
    ours, theirs = TORCH_ENVIRONMENT
    monkeypatch.delenv(ours, raising=False)
    monkeypatch.setenv(theirs, "the user's")
    import_libraries()

    assert (seen[ours], seen[theirs]) == (TORCH_ENVIRONMENT[ours], "the user's")


def test_compiled_code_is_kept_in_the_cache_directory_unless_the_user_set_another_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("TORCHINDUCTOR_CACHE_DIR", "TORCHINDUCTOR_COMPILE_THREADS"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)

    keep_compiled_code(Path("/cache"))
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "/cache/compiled"
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/elsewhere")
    keep_compiled_code(Path("/cache"))

    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "/elsewhere"


def test_compiling_processes_are_ended_and_without_a_compiler_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch._inductor.async_compile", raising=False)
    stop_compilers()

    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        pools = [SimpleNamespace(process=process), SimpleNamespace()]  # a pool may be of threads
        monkeypatch.setitem(sys.modules, "torch._inductor.async_compile", SimpleNamespace(_pool_set=pools))
        stop_compilers()
        assert process.wait(10) == -signal.SIGKILL
