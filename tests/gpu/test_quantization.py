"""Eight-bit layers and chosen attention kernels on a GPU: right within rounding, half the bytes, parked and back."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from models.loading.quantization.eight_bit import use_eight_bits
from pipelines.device import supports_fp8
from pipelines.diffusion.attention_choice import NATIVE, Shape, measure
from pipelines.host_offload import HostOffload
from pipelines.quantized.eight_bit_linear import EightBitLinear, Kind, _one_kernel

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")]

ROUNDING: dict[Kind, float] = {"fp8": 0.045, "int8": 0.015}
KINDS: list[Kind] = ["fp8", "int8"]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    if request.param == "fp8" and not supports_fp8("cuda"):
        pytest.skip("needs compute capability 8.9")
    found: Kind = request.param
    return found


def blocks() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.ModuleDict({"up": nn.Linear(512, 1024), "down": nn.Linear(1024, 512)}))  # "0.up", "0.down"
    return model.to(torch.bfloat16).eval().requires_grad_(False)


def run(model: Any, inputs: torch.Tensor) -> torch.Tensor:
    output: torch.Tensor = model[0]["down"](torch.nn.functional.silu(model[0]["up"](inputs)))
    return output


def distance(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one.float() - other.float()).norm() / other.float().norm())


@pytest.mark.parametrize("n_rows", [1, 8, 17, 300])
def test_the_kernels_compute_what_the_layer_computes(kind: Kind, n_rows: int) -> None:
    original = nn.Linear(512, 1024).to(torch.bfloat16).cuda().requires_grad_(False)
    layer = EightBitLinear(original, kind, "cuda")
    inputs = torch.randn(n_rows, 512, dtype=torch.bfloat16, device="cuda")

    assert 0 < distance(layer(inputs), original(inputs)) < ROUNDING[kind]
    one = layer(inputs[:1])
    assert distance(layer(inputs)[:1], one) < 0.01, "a row does not depend on the others"


def test_rows_are_quantized_in_one_kernel() -> None:
    assert _one_kernel(torch.device("cuda")) is not None


def test_a_model_is_quantized_from_host_memory_onto_the_device_and_parks_and_comes_back(kind: Kind) -> None:
    model = blocks()
    inputs = torch.randn(40, 512, dtype=torch.bfloat16, device="cuda")
    expected = run(blocks().cuda(), inputs)
    before = sum(parameter.nbytes for parameter in model.parameters())

    use_eight_bits("the model", model, kind, "cuda")
    model.to("cuda")
    offload = HostOffload([("model", model)], "cuda")
    output = run(model, inputs)

    assert distance(output, expected) < 0.08
    assert offload.components["model"] < 0.6 * before
    assert offload.park(["model"]) == offload.parked["model"] > 0
    offload.unpark(["model"])
    assert torch.equal(run(model, inputs), output)


@pytest.mark.filterwarnings("ignore")  # the compiler warns about many things
def test_compiled_layers_compute_the_same(kind: Kind) -> None:
    model = blocks()
    use_eight_bits("the model", model, kind, "cuda")
    model.to("cuda")
    compiled = torch.compile(run, fullgraph=True, dynamic=True)

    for n_rows in (32, 48):
        inputs = torch.randn(n_rows, 512, dtype=torch.bfloat16, device="cuda")
        with torch.no_grad():
            assert distance(compiled(model, inputs), run(model, inputs)) < 0.03
    torch._dynamo.reset()


def test_at_least_one_more_attention_kernel_agrees_with_torchs_choice() -> None:
    seconds = measure(Shape(24, 128, 1024), torch.bfloat16, "cuda")

    assert NATIVE in seconds
    assert len(seconds) > 1
