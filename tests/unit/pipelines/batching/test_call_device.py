from __future__ import annotations

import torch

from pipelines.batching.call_device import on_device

ELSEWHERE = torch.device("meta")  # a device that every machine has


def test_tensors_of_the_cpu_are_brought_to_the_device_wherever_they_stand() -> None:
    args, kwargs = on_device(((torch.ones(2, 3),), {"image": [torch.ones(4)], "n": 3}), ELSEWHERE)
    assert args[0].device == kwargs["image"][0].device == ELSEWHERE
    assert (args[0].shape, kwargs["n"]) == ((2, 3), 3)


def test_scalars_and_tensors_of_another_device_stay_the_same_objects() -> None:
    timestep, there = torch.tensor(0.5), torch.ones(2, device=ELSEWHERE)
    args = on_device((timestep, there), ELSEWHERE)
    assert args[0] is timestep
    assert args[1] is there
