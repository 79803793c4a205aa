"""Components leave the device and come back unchanged; a shared tensor leaves with the last of them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pipelines import device
from pipelines.host_offload import HostOffload


def two_that_share() -> tuple[nn.Linear, nn.Linear]:
    """An encoder and a denoiser that share a weight of 4 x 4 numbers, with a bias of 4 each. 4 bytes a number."""
    encoder, denoiser = nn.Linear(4, 4), nn.Linear(4, 4)
    denoiser.weight = encoder.weight
    return encoder, denoiser


@pytest.fixture(autouse=True)
def own_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Move weights as on a device with memory of its own, though from host memory to host memory."""
    monkeypatch.setattr(device, "has_own_memory", lambda device_name: True)


def offload_of(encoder: nn.Module, denoiser: nn.Module) -> HostOffload:
    return HostOffload([("encoder", encoder), ("denoiser", denoiser)], "cpu")


def test_what_two_components_share_is_counted_once_and_leaves_with_the_last() -> None:
    offload = offload_of(*two_that_share())
    assert offload.components == {"encoder": 80, "denoiser": 16}

    assert offload.park(["encoder"]) == 16, "its bias; the weight is still in use"
    assert (offload.components, offload.parked) == ({"denoiser": 80}, {"encoder": 16})
    assert offload.park(["denoiser"]) == 80
    assert (offload.components, offload.parked) == ({}, {"encoder": 80, "denoiser": 16})

    assert offload.unpark(["denoiser"]) == 80
    assert offload.unpark(["encoder"]) == 16
    assert offload.components == {"encoder": 80, "denoiser": 16}
    assert offload.parked == {}


def test_a_component_comes_back_as_it_was_and_still_shares() -> None:
    encoder, denoiser = two_that_share()
    offload = offload_of(encoder, denoiser)
    x = torch.randn(2, 4)
    before = encoder(x), denoiser(x)
    offload.park(["encoder", "denoiser"])
    offload.unpark(["encoder", "denoiser"])

    assert torch.equal(encoder(x), before[0])
    assert torch.equal(denoiser(x), before[1])
    assert denoiser.weight.data_ptr() == encoder.weight.data_ptr()


def test_parking_twice_and_unknown_names_change_nothing() -> None:
    offload = offload_of(*two_that_share())
    assert offload.park(["nobody"]) == 0
    offload.park(["encoder"])
    assert offload.park(["encoder"]) == 0
    assert offload.unpark(["denoiser", "nobody"]) == 0


def test_where_the_host_is_the_device_nothing_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    encoder, denoiser = two_that_share()
    offload = HostOffload([("encoder", encoder), ("denoiser", denoiser)], "cpu")
    assert offload.park(["encoder", "denoiser"]) == 0
    assert offload.parked == {}


def test_no_device_memory_for_unparking_leaves_all_parked(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, denoiser = two_that_share()
    offload = offload_of(encoder, denoiser)
    offload.park(["encoder", "denoiser"])

    def full(self: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as patched:
        patched.setattr(torch.Tensor, "to", full)
        with pytest.raises(torch.OutOfMemoryError):
            offload.unpark(["encoder"])
    assert offload.components == {}
    assert offload.unpark(["encoder", "denoiser"]) == 96


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError()])
def test_host_memory_that_runs_out_while_parking_leaves_all_on_the_device(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    encoder, denoiser = two_that_share()
    offload = offload_of(encoder, denoiser)
    before = [tensor.data_ptr() for tensor in (encoder.weight, encoder.bias, denoiser.bias)]
    copy, n_copied = device.to_host, 0

    def limited(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal n_copied
        n_copied += 1
        if n_copied == 3:
            raise error
        return copy(tensor)

    with monkeypatch.context() as patched:
        patched.setattr(device, "to_host", limited)
        assert offload.park(["encoder", "denoiser"]) == 0
    assert n_copied == 3
    assert [tensor.data_ptr() for tensor in (encoder.weight, encoder.bias, denoiser.bias)] == before
    assert (offload.components, offload.parked) == ({"encoder": 80, "denoiser": 16}, {})
    assert offload.park(["encoder", "denoiser"]) == 96
