"""The fastest attention kernel is chosen by measurement; what it does not take goes to another kernel."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from diffusers.models.attention_dispatch import AttentionBackendName, dispatch_attention_fn
from diffusers.models.attention_dispatch import _AttentionBackendRegistry as Registry
from torch import nn

from models.loading.attention import usual_tokens
from models.spec import Defaults, Limits, ModelSpec
from pipelines.diffusion import attention_choice
from pipelines.diffusion.attention_choice import Shape, attention_shape, choose_attention, measure
from tests.support.lanes.stock_families import FAMILIES

CUDNN = AttentionBackendName._NATIVE_CUDNN


@pytest.fixture
def registry() -> Iterator[None]:
    saved = {name: dict(getattr(Registry, name)) for name in ("_backends", "_constraints", "_supported_arg_names")}
    chosen = dict(attention_choice._chosen)
    attention_choice._chosen.clear()
    yield
    attention_choice._chosen.clear()
    attention_choice._chosen.update(chosen)
    for name, values in saved.items():
        setattr(Registry, name, values)


@pytest.fixture(scope="module")
def transformer() -> nn.Module:
    found = FAMILIES["flux"].build().transformer
    assert isinstance(found, nn.Module)
    return found


def timings(monkeypatch: pytest.MonkeyPatch, **seconds: float) -> list[Shape]:
    asked: list[Shape] = []

    def measured(shape: Shape, dtype: torch.dtype, device: str) -> dict[str, float]:
        asked.append(shape)
        return seconds

    monkeypatch.setattr(attention_choice, "measure", measured)
    return asked


def test_the_shape_is_read_from_the_attention_of_the_model(transformer: nn.Module) -> None:
    config = transformer.config
    assert attention_shape(transformer, 100) == Shape(config.num_attention_heads, config.attention_head_dim, 100)
    assert attention_shape(FAMILIES["sd15"].build().unet, 100) is None, "diffusers sets no backend of a U-Net"


@pytest.mark.usefixtures("registry")
def test_a_clearly_faster_kernel_is_chosen_and_measured_once_for_sizes_close_by(
    transformer: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = timings(monkeypatch, native=1.0, _native_cudnn=0.7, _native_flash=0.9)

    chosen = {choose_attention(transformer, tokens, torch.bfloat16, "cpu") for tokens in (4097, 4608, 8192)}

    assert chosen == {"_native_cudnn"}
    assert [shape.tokens for shape in asked] == [8192]


@pytest.mark.usefixtures("registry")
def test_a_kernel_that_is_hardly_faster_is_not_worth_another_rounding(
    transformer: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    timings(monkeypatch, native=1.0, _native_cudnn=0.98)

    assert choose_attention(transformer, 4608, torch.bfloat16, "cpu") == "native"
    assert choose_attention(transformer, 4608, torch.float32, "cpu") is None, "the fast kernels take no float32"


def test_only_kernels_that_agree_with_torchs_own_choice_are_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        return value

    def broken(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("No available kernel")

    monkeypatch.setattr(attention_choice, "candidates", lambda: {"wrong": wrong, "broken": broken})

    assert set(measure(Shape(2, 16, 32), torch.bfloat16, "cpu")) == {"native"}


@pytest.mark.usefixtures("registry")
def test_a_registered_backend_passes_on_a_mask_that_its_kernel_does_not_take() -> None:
    attention_choice.register("_native_cudnn")
    query = torch.randn(1, 6, 2, 16)
    mask = torch.ones(1, 1, 6, 6, dtype=torch.bool).tril()

    for given in (None, mask):
        ours = dispatch_attention_fn(query, query, query, attn_mask=given, backend=CUDNN)
        stock = dispatch_attention_fn(query, query, query, attn_mask=given, backend=AttentionBackendName.NATIVE)
        torch.testing.assert_close(ours, stock)


@pytest.mark.usefixtures("registry")
def test_another_process_registers_what_is_set_in_a_block() -> None:
    block = FAMILIES["flux"].build().transformer.transformer_blocks[0]
    block.attn.processor._attention_backend = CUDNN

    attention_choice.register_backends_of(block)

    assert Registry._backends[CUDNN].passes_on


@pytest.mark.parametrize(
    ("kind", "size", "frames", "multiple", "tokens"),
    [("image", 1024, None, 16, 64 * 64 + 512), ("video", 512, 81, 16, 32 * 32 * 20 + 512)],
)
def test_the_tokens_of_a_usual_job_follow_from_its_size(
    kind: str, size: int, frames: int | None, multiple: int, tokens: int
) -> None:
    spec = ModelSpec(
        name="m",
        type=kind,  # type: ignore[arg-type]  # of the parameters above
        path=None,
        source="m",
        defaults=Defaults(width=size, height=size, num_frames=frames),
        limits=Limits(size_multiple=multiple, frames_multiple=4 if frames else 1),
    )

    assert usual_tokens(spec) == tokens
