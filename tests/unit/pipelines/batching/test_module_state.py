"""Stock code that changes what all tasks share: each job gives what it gives alone, and the modules are left as they were found."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from transformers import GenerationMixin

from benchmarks.families import FAMILIES, Family
from pipelines.batching.rendezvous import Rendezvous
from pipelines.batching.task import Task
from pipelines.diffusion.lane import DiffusionLane
from pipelines.interface import DiffusionRequest, Rendered
from tests.support.lane_play import direct, ends, gap, play, rendered, request

PERTURBED = FAMILIES["StableDiffusionPAGPipeline"]
SELF_ATTENTION = FAMILIES["StableDiffusionSAGPipeline"]
STRONG = {
    PERTURBED.name: {"pag_scale": 30.0},
    SELF_ATTENTION.name: {"sag_scale": 30.0},
}  # tiny networks attend to little

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


def three(family: Family) -> list[DiffusionRequest]:
    """The first ends while the others still have steps to go."""
    lengths = {"a": 2, "b": 5, "c": 4}
    return [
        request(family, name, seed=i, steps=lengths[name], call=STRONG[family.name]) for i, name in enumerate(lengths)
    ]


def attention(pipeline: Any) -> list[str]:
    return [type(one).__name__ for one in pipeline.unet.attn_processors.values()]


@pytest.mark.parametrize("family", [PERTURBED, SELF_ATTENTION], ids=lambda family: family.name)
def test_jobs_that_swap_the_attention_give_what_they_give_alone(family: Family) -> None:
    pipeline = family.build()
    before = attention(pipeline)
    expected = {wanted.id: direct(pipeline, wanted) for wanted in three(family)}
    done = rendered(DiffusionLane(pipeline, kind="image"), three(family))

    assert max(gap(done[name].frames, frames) for name, frames in expected.items()) == 0
    assert attention(pipeline) == before


def test_a_canceled_job_leaves_the_attention_as_it_found_it() -> None:
    pipeline = PERTURBED.build()
    before = attention(pipeline)
    lane = DiffusionLane(pipeline, kind="image")
    first, second, _ = three(PERTURBED)
    lane.admit(first)
    lane.admit(second)
    for _ in range(6):  # into its steps
        lane.step()
        assert attention(pipeline) == before, "and between two turns of its task"
    lane.cancel("a")
    end = ends(play(lane))["b"]

    assert attention(pipeline) == before
    assert isinstance(end, Rendered)
    assert gap(end.frames, direct(pipeline, second)) == 0


def test_a_hook_of_one_task_is_not_run_by_another_ones_forward() -> None:
    seen: list[str] = []
    meeting, net = Rendezvous(), torch.nn.Linear(2, 2)
    meeting.wrap("net", net, "forward")

    def body(name: str) -> None:
        """As Qwen-Image 2.1 reads its prompt: a hook for one call, taken off after it."""
        handle = net.register_forward_hook(lambda *_: seen.append(name))
        try:
            net(torch.zeros(1, 2))
        finally:
            handle.remove()

    def plain() -> None:
        net(torch.zeros(1, 2))

    for task in (Task("a", functools.partial(body, "a")), Task("b", plain), Task("c", functools.partial(body, "c"))):
        assert meeting.start(task) is None
        assert not net._forward_hooks, "between two turns of its task it is not there"
    while meeting.busy:
        meeting.step()

    assert seen == ["a", "c"]
    assert not net._forward_hooks


class Writer(torch.nn.Module, GenerationMixin):
    """Counts on itself, as language models remember where in a text they are; a setting that somebody else makes stays."""

    def __init__(self) -> None:
        super().__init__()
        self.shift: torch.Tensor | None = None
        self.setting: str | None = None

    def forward(self, step: object) -> torch.Tensor:
        self.shift = torch.zeros(1) if self.shift is None else self.shift + 1
        return self.shift


def test_what_a_language_model_remembers_on_itself_is_each_tasks_own() -> None:
    meeting, net = Rendezvous(), Writer()
    meeting.wrap("net", net, "forward")
    counted: dict[str, list[float]] = {"a": [], "b": []}

    def body(name: str, n: int) -> None:
        for _ in range(n):
            counted[name].append(float(net(object())))

    for name, n in (("a", 2), ("b", 4)):
        meeting.start(Task(name, functools.partial(body, name, n)))
    net.setting = "set between two forwards"
    while meeting.busy:
        meeting.step()
        assert net.shift is None

    assert counted == {"a": [0, 1], "b": [0, 1, 2, 3]}
    assert net.setting == "set between two forwards"
    assert float(net(object())) == 0, "nobody's is left to who comes from outside"
