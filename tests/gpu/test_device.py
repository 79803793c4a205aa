"""`pipelines.device` on a real GPU: memory, errors and peaks; and merged calls equal single ones but for rounding."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pipelines import device
from pipelines.batching.merging import Call, difference, run_merged
from pipelines.batching.proof import TOLERANCE

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")]

MIB = 1 << 20


def test_memory_that_this_process_takes_is_seen_by_the_driver_and_the_allocator_and_comes_back() -> None:
    device.release_cache()
    free, total = device.memory("cuda")
    held = device.held_by_us("cuda")
    assert 0 < free <= total
    block = torch.empty(256 * MIB, dtype=torch.uint8, device="cuda")
    assert device.held_by_us("cuda") - held >= block.nbytes
    assert device.memory("cuda")[0] <= free - block.nbytes // 2, "other programs may have given some back"

    del block
    device.release_cache()
    assert device.held_by_us("cuda") == held


def test_a_peak_counts_what_was_held_on_top_of_what_was_there() -> None:
    there = torch.empty(64 * MIB, dtype=torch.uint8, device="cuda")
    meter = device.PeakMeter("cuda")
    meter.resume()
    kept = torch.empty(32 * MIB, dtype=torch.uint8, device="cuda")
    meter.pause()
    torch.empty(128 * MIB, dtype=torch.uint8, device="cuda")  # another lane's, freed at once
    meter.resume()
    torch.empty(16 * MIB, dtype=torch.uint8, device="cuda")
    meter.pause()

    assert 48 * MIB <= meter.peak_bytes < 64 * MIB
    assert kept.nbytes + there.nbytes == 96 * MIB


def test_an_allocation_that_does_not_fit_is_out_of_memory_and_leaves_the_device_usable() -> None:
    _, total = device.memory("cuda")
    with pytest.raises(RuntimeError) as refused:
        torch.empty(2 * total, dtype=torch.uint8, device="cuda")

    assert device.is_out_of_memory(refused.value)
    assert not device.is_fatal(refused.value)
    assert torch.ones(3, device="cuda").sum().item() == 3


def test_a_copy_in_host_memory_is_pinned_and_equal() -> None:
    tensor = torch.randn(1000, device="cuda")
    copy = device.to_host(tensor)
    assert (copy.device.type, copy.is_pinned()) == ("cpu", True)
    assert torch.equal(copy, tensor.cpu())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_merged_forward_gives_each_call_what_it_gives_alone(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)  # its rounding is another tolerance than float32's
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(4, 64, 3, padding=1), nn.GroupNorm(8, 64), nn.SiLU(), nn.Conv2d(64, 4, 3, padding=1))
    net = net.to("cuda", dtype).requires_grad_(False)

    def denoise(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return net(x) * t.reshape(-1, 1, 1, 1)

    def call(t: float) -> Call:
        noise = torch.randn(2, 4, 32, 32).to("cuda", dtype)
        return Call("net", "forward", denoise, (noise, torch.tensor(t, device="cuda", dtype=dtype)), {})

    calls = [call(t) for t in (1.0, 0.5, 2.0)]
    alone = [call.run() for call in calls]
    merged = run_merged(calls, width=4)

    assert len(merged) == 3
    assert all(difference(one, other) <= TOLERANCE[dtype] for one, other in zip(alone, merged, strict=True))
