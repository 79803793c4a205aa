"""Loads change torch for the whole process; steps on other devices see nothing of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from models.loading.load import load
from models.spec import ModelSpec
from pipelines.dtype_lock import loading, others_wait, working
from tests.support.lanes.stock_families import stable_diffusion


@contextmanager
def on_another_thread(run: Callable[[], None]) -> Iterator[threading.Thread]:
    """Run `run` on another thread, which ends with the block."""
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    yield thread
    thread.join(10)
    assert not thread.is_alive()


def test_a_step_waits_while_a_model_is_built_in_another_precision() -> None:
    seen: list[torch.dtype] = []

    def step() -> None:
        with working():
            seen.append(torch.get_default_dtype())

    with loading():
        torch.set_default_dtype(torch.bfloat16)
        with on_another_thread(step) as thread:
            thread.join(0.05)
            assert seen == []
            torch.set_default_dtype(torch.float32)

    assert seen == [torch.float32]


def test_a_model_is_built_once_the_step_of_another_device_has_yielded() -> None:
    begun, seen = threading.Event(), []

    def step() -> None:
        with working():
            begun.set()
            while not others_wait():
                pass
            seen.append(torch.get_default_dtype())

    with on_another_thread(step):
        begun.wait(10)
        with working(), loading():
            torch.set_default_dtype(torch.bfloat16)
            assert seen == [torch.float32]
            torch.set_default_dtype(torch.float32)

    assert not others_wait()


def test_a_step_that_waits_to_load_does_not_hold_up_the_load_before_it() -> None:
    begun, taken, loaded = threading.Event(), threading.Event(), []

    def step() -> None:
        with working():
            begun.set()
            taken.wait(10)
            with loading():
                loaded.append(torch.get_default_dtype())

    with on_another_thread(step):
        begun.wait(10)
        with working(), loading():
            taken.set()
            torch.set_default_dtype(torch.bfloat16)
            assert loaded == []
            torch.set_default_dtype(torch.float32)

    assert loaded == [torch.float32]


def test_a_build_that_fails_leaves_the_usual_precision() -> None:
    @loading()
    def fail() -> None:
        torch.set_default_dtype(torch.float16)
        raise ValueError("bad")

    with pytest.raises(ValueError, match="bad"):
        fail()

    assert torch.get_default_dtype() == torch.float32
    with working():
        assert not others_wait()


@pytest.mark.slow
def test_no_step_of_another_device_sees_the_dtype_in_which_a_model_is_built(tmp_path: Path) -> None:
    stable_diffusion().save_pretrained(tmp_path / "sd")
    spec = ModelSpec(name="sd", type="image", path=tmp_path / "sd", source="sd", dtype="bfloat16")
    loaded, seen = threading.Event(), set()

    def step() -> None:
        while not loaded.is_set():
            with working():
                seen.add(torch.get_default_dtype())

    with on_another_thread(step):
        try:
            load(spec, device="cpu")
        finally:
            loaded.set()

    assert seen == {torch.float32}
