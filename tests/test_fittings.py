"""Stock code that changes what all tasks share: each job gives what it gives alone, and the modules are left as they were found."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch

from benchmarks.families import FAMILIES, Family
from pipelines.diffusion import DiffusionLane
from pipelines.interface import DiffusionRequest, Rendered
from pipelines.rendezvous import Rendezvous, Task
from tests.lane_play import direct, ends, gap, play, rendered, request

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
