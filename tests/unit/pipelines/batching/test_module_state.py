"""Stock code that changes shared modules: each job gives what it gives alone, and the modules are left unchanged."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from transformers import GenerationMixin

from benchmarks.families import FAMILIES, Family
from pipelines.batching.task import Task
from pipelines.diffusion.lane import DiffusionLane
from pipelines.diffusion_interface import DiffusionRequest
from pipelines.interface import Rendered
from tests.support.lanes.lane_play import direct, ends, gap, play, rendered, request
from tests.support.lanes.rendezvous import rendezvous_at

PERTURBED = FAMILIES["StableDiffusionPAGPipeline"]
SELF_ATTENTION = FAMILIES["StableDiffusionSAGPipeline"]
STRONG = {
    PERTURBED.name: {"pag_scale": 30.0},
    SELF_ATTENTION.name: {"sag_scale": 30.0},
}  # tiny networks attend to little

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


def three(family: Family) -> list[DiffusionRequest]:
    """The first ends while the others still have steps to do."""
    lengths = {"a": 2, "b": 5, "c": 4}
    return [
        request(family, name, seed=i, steps=lengths[name], call=STRONG[family.name]) for i, name in enumerate(lengths)
    ]


def processors(pipeline: Any) -> list[str]:
    return [type(one).__name__ for one in pipeline.unet.attn_processors.values()]


@pytest.mark.parametrize("family", [PERTURBED, SELF_ATTENTION], ids=lambda family: family.name)
def test_jobs_that_swap_attention_processors_give_what_they_give_alone(family: Family) -> None:
    pipeline = family.build()
    before = processors(pipeline)
    expected = {wanted.id: direct(pipeline, wanted) for wanted in three(family)}
    done = rendered(DiffusionLane(pipeline, kind="image"), three(family))

    assert max(gap(done[name].frames, frames) for name, frames in expected.items()) == 0
    assert processors(pipeline) == before


def test_a_canceled_job_restores_the_attention_processors() -> None:
    pipeline = PERTURBED.build()
    before = processors(pipeline)
    lane = DiffusionLane(pipeline, kind="image")
    first, second, _ = three(PERTURBED)
    lane.admit(first)
    lane.admit(second)
    for _ in range(6):  # into its steps
        lane.step()
        assert processors(pipeline) == before, "between two turns of its task, too"
    lane.cancel("a")
    end = ends(play(lane))["b"]

    assert processors(pipeline) == before
    assert isinstance(end, Rendered)
    assert gap(end.frames, direct(pipeline, second)) == 0


def test_a_hook_of_one_task_does_not_run_in_the_forward_of_another() -> None:
    ran: list[str] = []
    net = torch.nn.Linear(2, 2)
    rendezvous = rendezvous_at(net)

    def body(name: str) -> None:
        """As Qwen-Image 2.1 reads its prompt: a hook for one call, removed after it."""
        handle = net.register_forward_hook(lambda *_: ran.append(name))
        try:
            net(torch.zeros(1, 2))
        finally:
            handle.remove()

    def plain() -> None:
        net(torch.zeros(1, 2))

    for task in (Task("a", functools.partial(body, "a")), Task("b", plain), Task("c", functools.partial(body, "c"))):
        assert rendezvous.start(task) is None
        assert not net._forward_hooks, "the hook is removed between two turns of its task"
    while rendezvous.busy:
        rendezvous.step()

    assert ran == ["a", "c"]
    assert not net._forward_hooks


class Writer(torch.nn.Module, GenerationMixin):
    """Counts on itself, as language models cache the shift of text positions. `setting` is changed from outside."""

    def __init__(self) -> None:
        super().__init__()
        self.shift: torch.Tensor | None = None
        self.setting: str | None = None

    def forward(self, step: object) -> torch.Tensor:
        self.shift = torch.zeros(1) if self.shift is None else self.shift + 1
        return self.shift


def test_attributes_that_a_language_model_caches_on_itself_belong_to_each_task() -> None:
    net = Writer()
    rendezvous = rendezvous_at(net)
    counted: dict[str, list[float]] = {"a": [], "b": []}

    def body(name: str, n: int) -> None:
        for _ in range(n):
            counted[name].append(float(net(object())))

    for name, n in (("a", 2), ("b", 4)):
        rendezvous.start(Task(name, functools.partial(body, name, n)))
    net.setting = "set between two forwards"
    while rendezvous.busy:
        rendezvous.step()
        assert net.shift is None

    assert counted == {"a": [0, 1], "b": [0, 1, 2, 3]}
    assert net.setting == "set between two forwards"
    assert float(net(object())) == 0, "a call from outside of tasks sees no task's value"
