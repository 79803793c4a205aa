"""Decode steps whose layers are compiled beside the device thread, taken into use between two steps."""

from __future__ import annotations

import functools
import gc
import shutil
import time
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters

from pipelines.chat.decode import compiled, step_compiler, steps
from pipelines.chat.decode.options import DecodeOptions
from pipelines.chat.decode.step_compiler import LayerTask, compile_beside
from pipelines.chat.lane import ChatLane
from pipelines.chat_interface import ChatRequest
from tests.support.lanes.chat_play import chat, play, replies
from tests.support.lanes.tiny_chat import tiny_lane, tiny_model

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore"),  # importing the compiler warns about many things
]


def several(n: int = 4) -> list[ChatRequest]:
    return [chat(f"c{i}", "tell me of " + "the sea " * i, max_tokens=12 + 9 * i) for i in range(n)]


@dataclass
class Prepared:
    """In place of processes: each preparation is done when the test says so, with the results that the test gives."""

    done: bool = False
    reason: str = ""  # why each task fails
    tasks: list[LayerTask] = field(default_factory=list)
    stopped: int = 0

    def __call__(self, tasks: Sequence[LayerTask]) -> _Preparation:
        self.tasks += tasks
        return _Preparation(self, len(tasks))


@dataclass
class _Preparation:
    of: Prepared
    n_tasks: int

    def results(self) -> Sequence[str]:
        return self.failures() or []

    def failures(self) -> Sequence[str] | None:
        return [self.of.reason] * self.n_tasks if self.of.done else None

    def stop(self) -> None:
        self.of.stopped += 1


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The compiler is replaced by one that keeps what it is given; yields an entry for each graph that it gets."""
    seen: list[int] = []
    compile_ = torch.compile

    def backend(graph: Any, inputs: Any) -> Any:
        seen.append(len(inputs))
        return graph

    def stubbed(call: Any, *, dynamic: bool, options: Any) -> Any:
        return compile_(call, dynamic=dynamic, backend=backend)

    monkeypatch.setattr(compiled.torch, "compile", stubbed)
    monkeypatch.setattr(step_compiler, "POLL_S", 0.0)
    yield seen
    torch._dynamo.reset()


def lane_of(model: Any, prepare: Any, max_running: int = 4) -> ChatLane:
    options = DecodeOptions(static=True, graphs=False, compile=prepare)
    lane: ChatLane = tiny_lane(model, decode=options, max_running=max_running)
    return lane


@pytest.mark.slow
def test_chats_run_as_written_until_the_layers_are_compiled_and_keep_their_tokens(graphs: list[int]) -> None:
    model, prepared = tiny_model(), Prepared()
    expected = replies(tiny_lane(model), several())
    lane = lane_of(model, prepared)
    for request in several():
        lane.admit(request)
    updates = [update for _ in range(8) for update in lane.step()]
    assert lane.preparing
    assert not graphs
    assert [task.rows for task in prepared.tasks] == [1, 2, 4]

    prepared.done = True
    updates += play(lane)
    ended = {each.request_id: each.text for each in updates if hasattr(each, "text") and hasattr(each, "finish_reason")}

    assert ended == {name: reply.text for name, reply in expected.items()}
    assert len(graphs) == 3, "one for each number of rows, whatever the number of layers"
    assert lane.notes[-1] == "Its decode steps run compiled, with 1, 2, 4 chats at once."
    assert not lane.preparing
    assert "forward" not in model.model.layers[0].__dict__


@pytest.mark.slow
def test_a_cache_that_is_made_again_runs_compiled_at_once_and_compiles_nothing_anew(graphs: list[int]) -> None:
    model, prepared = tiny_model(), Prepared(done=True)
    lane = lane_of(model, prepared)
    expected = replies(lane, several())
    n_graphs, n_tasks = len(graphs), len(prepared.tasks)
    lane.resize_cache(2 << 20)

    assert replies(lane, several()) == expected
    assert (len(graphs), len(prepared.tasks)) == (n_graphs, n_tasks)


def test_layers_that_cannot_be_compiled_run_as_written_and_the_model_says_why(graphs: list[int]) -> None:
    model = tiny_model()
    lane = lane_of(model, Prepared(done=True, reason="TorchRuntimeError: no such operator"))

    assert replies(lane, several()) == replies(tiny_lane(model), several())
    assert not graphs
    assert lane.notes[-1] == (
        "Its decode steps with 1, 2, 4 chats are not compiled, which makes them slower: "
        "TorchRuntimeError: no such operator."
    )


def test_a_compiler_that_cannot_be_started_is_told() -> None:
    def prepare(tasks: Any) -> Any:
        raise step_compiler.NoRoom("7 MiB of the device are free")

    assert "NoRoom: 7 MiB of the device are free" in lane_of(tiny_model(), prepare).notes[-1]


@pytest.mark.slow
def test_compiled_layers_that_compute_something_else_are_not_used(
    graphs: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model()
    make = compiled.compiled_forward_of
    monkeypatch.setattr(
        step_compiler, "compiled_forward_of", lambda *args: lambda *inputs: make(*args)(*inputs).flip(-1)
    )
    lane = lane_of(model, Prepared(done=True))

    assert replies(lane, several()) == replies(tiny_lane(model), several())
    assert "something else" in lane.notes[-1]


@pytest.mark.slow
def test_nothing_is_compiled_on_the_device_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_compiler, "POLL_S", 0.0)
    model = tiny_model()
    with torch._inductor.config.patch(force_disable_caches=True):
        lane = lane_of(model, Prepared(done=True), max_running=1)
        assert replies(lane, several(1)) == replies(tiny_lane(model), several(1))
    torch._dynamo.reset()

    assert "NotCompiledYet" in lane.notes[-1]


@pytest.mark.slow
def test_a_lane_that_is_closed_stops_its_compilers_and_lets_go_of_the_model(graphs: list[int]) -> None:
    model, prepared = tiny_model(), Prepared()
    lane = lane_of(model, prepared)
    replies(lane, several())
    lane.close()
    gone = weakref.ref(model)
    del lane, model, prepared.tasks[:]
    gc.collect()

    assert prepared.stopped == 2
    assert gone() is None


def test_recording_writes_into_no_page_of_a_chat(graphs: list[int]) -> None:
    """Rows that are only padding read and write the page that holds nothing."""
    lane = lane_of(tiny_model(), Prepared())
    lane.admit(chat("a", max_tokens=40))
    for _ in range(4):
        lane.step()
    batch: Any = lane._kv_cache.batch
    decode: steps.DecodeSteps = batch._decode
    cache = batch._cache.cache_tensor
    before = cache.clone()
    with torch.inference_mode():
        decode._tokens.fill_(7)
        decode._read_nothing()
        decode._run(4, 1, decode._plain)
    changed = (cache != before).nonzero() // batch._cache.bytes_per_sector

    assert set(changed.flatten().tolist()) == {1}, "transformers keeps the first two sectors for what nobody reads"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_what_a_process_compiled_is_found_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    counters.clear()
    model = tiny_model()
    expected = replies(tiny_lane(model), several(1))
    lane = lane_of(model, functools.partial(compile_beside, device_name="cpu"), max_running=1)
    compiler: Any = lane._compiler
    while compiler._preparations:
        compiler.look()
        time.sleep(0.05)

    assert replies(lane, several(1)) == expected
    assert lane.notes[-1] == "Its decode steps run compiled, with 1 chats at once."
    assert (counters["inductor"]["fxgraph_cache_hit"], counters["inductor"]["fxgraph_cache_miss"]) == (1, 0)
    torch._dynamo.reset()
