"""Compiled blocks in a lane: who waits, what runs compiled, and what becomes of preemption, LoRAs, hooks and errors.

The compiler's backend here returns the graph as it was traced, so compiled code gives the bits of the original.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FluxPipeline, FluxTransformer2DModel
from peft import LoraConfig, get_peft_model_state_dict

from pipelines.block_calls import BlockCall
from pipelines.diffusion.compiled_blocks import MOST_KINDS_OF_CALLS, CompiledBlocks
from pipelines.diffusion.lane import DiffusionLane
from pipelines.diffusion_interface import Lora
from pipelines.interface import Rendered, StepCost
from tests.support.lanes.lane_play import ends, gap, play, rendered, request
from tests.support.lanes.stock_families import FAMILIES

FLUX = FAMILIES["flux"]
EQUAL = 1e-5  # of pixels: the same operations, in one graph
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")]


class StubBackend:
    """Returns each graph as it is. Counts the graphs, and what ran of them."""

    def __init__(self) -> None:
        self.graphs = 0
        self.runs = 0
        self.error: Exception | None = None  # raised by the compiler
        self.errors_of_runs: list[Exception] = []  # raised by compiled code, one a run

    def __call__(self, graph: torch.fx.GraphModule, inputs: Any) -> Callable[..., Any]:
        if self.error is not None:
            raise self.error
        self.graphs += 1

        def run(*args: Any) -> Any:
            self.runs += 1
            if self.errors_of_runs:
                raise self.errors_of_runs.pop()
            return graph.forward(*args)

        return run


class Compiler:
    """A preparation that is done when the test says so."""

    def __init__(self) -> None:
        self.calls: list[BlockCall] = []
        self.result: str | None = ""  # None: still at it; otherwise why it failed
        self.stopped = False

    def prepare(self, calls: Sequence[BlockCall]) -> Compiler:
        self.calls = [*calls]
        return self

    def failures(self) -> Sequence[str] | None:
        return None if self.result is None else [self.result] * len(self.calls)

    def stop(self) -> None:
        self.stopped = True


@pytest.fixture
def backend() -> Iterator[StubBackend]:
    yield StubBackend()
    torch.compiler.reset()


def flux() -> Any:
    """A tiny Flux with two blocks of each of its classes. To be quick, it names one class for compilation."""
    pipeline = FLUX.build()
    torch.manual_seed(0)
    config = {**pipeline.transformer.config, "num_layers": 2, "num_single_layers": 2}
    transformer = FluxTransformer2DModel.from_config(config).eval()
    transformer._repeated_blocks = ["FluxSingleTransformerBlock"]
    pipeline.register_modules(transformer=transformer)
    return pipeline


def flux_lora(folder: Path) -> Lora:
    transformer = flux().transformer
    torch.manual_seed(3)
    transformer.add_adapter(LoraConfig(r=2, lora_alpha=8, target_modules=["to_q", "to_v"], init_lora_weights=False))
    FluxPipeline.save_lora_weights(folder, get_peft_model_state_dict(transformer), weight_name="ink.safetensors")
    return Lora("ink", str(folder / "ink.safetensors"), 1.0)


def lane_of(backend: StubBackend, compiler: Compiler | None = None, **options: Any) -> DiffusionLane:
    pipeline = flux()
    lane = DiffusionLane(pipeline, kind="image", **options)
    prepare = compiler.prepare if compiler is not None else None
    lane.compile_blocks(CompiledBlocks([pipeline.transformer], prepare=prepare, backend=backend))
    return lane


def picture(lane: DiffusionLane, name: str = "job", **wanted: Any) -> Any:
    return rendered(lane, [request(FLUX, name, **wanted)])[name].frames


def test_the_first_job_runs_as_written_and_the_second_compiled_with_the_same_picture(backend: StubBackend) -> None:
    lane = lane_of(backend)

    first = picture(lane)
    assert backend.graphs == 0
    second = picture(lane)

    assert backend.graphs == 1
    assert backend.runs == 2 * 3  # blocks, steps
    assert gap(first, second) <= EQUAL
    assert any("run compiled" in note for note in lane.notes)


def test_jobs_run_as_written_while_the_compiler_is_still_at_it(backend: StubBackend) -> None:
    compiler = Compiler()
    compiler.result = None
    lane = lane_of(backend, compiler)

    picture(lane)
    picture(lane)
    assert {call.name for call in compiler.calls} == {"FluxSingleTransformerBlock"}
    assert backend.graphs == 0
    compiler.result = ""
    picture(lane)

    assert backend.graphs == 1


def test_a_described_call_holds_no_data(backend: StubBackend) -> None:
    compiler = Compiler()
    picture(lane_of(backend, compiler))

    for call in compiler.calls:
        tensors = [*call.block.parameters(), *call.block.buffers()]
        assert tensors
        assert all(tensor.is_meta for tensor in tensors)
        assert not call.block._forward_pre_hooks


def test_other_sizes_need_no_new_code_and_merged_calls_need_it_once(backend: StubBackend) -> None:
    lane = lane_of(backend, merging="on")
    picture(lane)
    picture(lane)

    picture(lane, width=2 * FLUX.size)
    picture(lane, height=3 * FLUX.size)
    assert backend.graphs == 1
    for round_ in range(3):
        rendered(lane, [request(FLUX, f"{round_}{i}", seed=i) for i in range(2 + round_)])

    assert backend.graphs <= 3  # for one row, and for several that are a part of a tensor or a whole one


def test_a_merged_job_gets_what_it_gets_alone(backend: StubBackend) -> None:
    lane = lane_of(backend)
    wanted = [request(FLUX, f"job{i}", seed=i) for i in range(3)]
    expected = {each.id: rendered(lane, [each])[each.id].frames for each in wanted}
    for _ in range(3):
        found = rendered(lane, wanted)

    assert max(end.batch_peak for end in found.values()) > 1
    for name, end in found.items():
        assert gap(end.frames, expected[name]) <= 1e-4


def test_compiled_blocks_are_preempted_between_each_other(backend: StubBackend) -> None:
    lane = lane_of(backend)
    expected = picture(lane)
    picture(lane)

    lane.admit(request(FLUX, "preempted"))
    preempted, updates = 0, []
    while lane.has_work():
        updates += lane.step(should_yield=lambda: True)
        preempted += lane.mid_forward
        torch.randn(2, 2) @ torch.randn(2, 2)  # other work of the thread in between
    end = ends(updates)["preempted"]

    assert preempted >= 4 * 3  # blocks, steps
    assert backend.graphs == 1
    assert isinstance(end, Rendered)
    assert gap(end.frames, expected) <= EQUAL


def test_a_job_that_is_preempted_while_code_is_made_gives_the_same_picture(backend: StubBackend) -> None:
    lane = lane_of(backend)
    expected = picture(lane)

    lane.admit(request(FLUX, "preempted"))
    updates = []
    while lane.has_work():
        updates += lane.step(should_yield=lambda: True)

    assert backend.graphs == 1
    assert gap(ends(updates)["preempted"].frames, expected) <= EQUAL


def test_a_job_with_a_lora_runs_as_written_and_the_code_comes_back_after_it(
    backend: StubBackend, tmp_path: Path
) -> None:
    lane = lane_of(backend)
    lora = flux_lora(tmp_path)
    plain = picture(lane)
    picture(lane)
    runs = backend.runs

    worn = picture(lane, loras=(lora,))
    assert backend.runs == runs
    assert gap(worn, plain) > 1e-3
    for _ in range(2):  # the LoRA's layers are in the blocks now, so the code is made once more
        assert gap(picture(lane), plain) <= EQUAL

    assert backend.runs > runs
    assert backend.graphs <= 2 * MOST_KINDS_OF_CALLS


def test_a_deterministic_job_has_the_same_bits_before_and_after_compilation(backend: StubBackend) -> None:
    lane = lane_of(backend)
    before = picture(lane, deterministic=True)
    picture(lane)
    picture(lane)
    runs = backend.runs

    after = picture(lane, deterministic=True)

    assert runs > 0
    assert backend.runs == runs
    assert (before == after).all()


def test_deterministic_jobs_alone_start_no_compiler(backend: StubBackend) -> None:
    compiler = Compiler()
    lane = lane_of(backend, compiler)

    picture(lane, deterministic=True)

    assert not compiler.calls


def test_blocks_run_as_written_while_a_hook_is_on_a_layer_inside(backend: StubBackend) -> None:
    lane = lane_of(backend)
    picture(lane)
    picture(lane)
    runs, seen = backend.runs, []
    layer = lane.pipeline.transformer.single_transformer_blocks[0].attn.to_q
    hook = layer.register_forward_pre_hook(lambda module, args: seen.append(args))

    picture(lane)
    assert seen
    assert backend.runs == runs
    hook.remove()
    picture(lane)

    assert backend.runs > runs


def test_a_compiler_that_fails_costs_one_warning_and_no_job(
    backend: StubBackend, caplog: pytest.LogCaptureFixture
) -> None:
    lane = lane_of(backend)
    expected = picture(lane)
    backend.error = RuntimeError("no such kernel")

    found = [picture(lane) for _ in range(2)]

    assert all(gap(one, expected) <= EQUAL for one in found)
    told = [record for record in caplog.records if "uncompiled" in record.message]
    assert len(told) == 1
    assert any("FluxSingleTransformerBlock runs as written" in note and "no such kernel" in note for note in lane.notes)


def test_compiled_code_that_fails_is_replaced_by_the_original_in_the_same_job(backend: StubBackend) -> None:
    lane = lane_of(backend)
    expected = picture(lane)
    picture(lane)
    backend.errors_of_runs = [ValueError("wrong stride")]

    assert gap(picture(lane), expected) <= EQUAL
    assert any("wrong stride" in note for note in lane.notes)


def test_compiled_code_that_runs_out_of_memory_is_tried_again_and_stays(backend: StubBackend) -> None:
    lane = lane_of(backend)
    expected = picture(lane)
    picture(lane)
    backend.errors_of_runs = [torch.OutOfMemoryError("full")]

    assert gap(picture(lane), expected) <= EQUAL
    assert not any("as written" in note for note in lane.notes)


def test_a_worker_that_fails_leaves_the_blocks_as_written_and_says_why(backend: StubBackend) -> None:
    compiler = Compiler()
    compiler.result = "the compiler took too long"
    lane = lane_of(backend, compiler)
    picture(lane)

    picture(lane)

    assert backend.graphs == 0
    assert any("the compiler took too long" in note for note in lane.notes)


def test_the_seconds_of_the_compiler_are_not_learned_as_those_of_a_step(backend: StubBackend) -> None:
    lane = lane_of(backend)
    costs = []
    for _ in range(2):
        picture(lane)
        costs.append([c for c in lane.take_costs() if isinstance(c, StepCost) and c.component == "transformer"])

    assert [len(found) for found in costs] == [3, 2]  # of three steps


def test_merging_is_proved_again_once_blocks_are_compiled(backend: StubBackend) -> None:
    lane = lane_of(backend)
    pair = [request(FLUX, name, seed=seed) for name, seed in (("one", 1), ("two", 2))]
    rendered(lane, pair)
    before = set(lane.verdicts)

    for _ in range(2):
        picture(lane)
    rendered(lane, pair)

    assert {name.split(" ")[0] for name in set(lane.verdicts) - before} >= {"transformer.forward"}


def test_a_closed_lane_leaves_the_blocks_as_they_were(backend: StubBackend) -> None:
    compiler = Compiler()
    compiler.result = None
    lane = lane_of(backend, compiler)
    transformer = lane.pipeline.transformer
    picture(lane)

    lane.close()

    assert compiler.stopped
    assert all("forward" not in vars(block) for block in transformer.modules())


def test_a_block_that_refuses_its_arguments_is_not_blamed_on_the_compiler(backend: StubBackend) -> None:
    lane = lane_of(backend)
    picture(lane)
    lane.admit(request(FLUX, "bad", call={**FLUX.call, "joint_attention_kwargs": {"no_such": 1}}))
    play(lane)

    picture(lane)

    assert backend.graphs == 1
