"""Linear layers of compiled blocks that read the same tensor: one product, over weights that are held once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipelines.diffusion.compiled_blocks import CompiledBlocks
from pipelines.diffusion.joined_products import ALIGNMENT_BYTES, join_products

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
JOINED = torch.ops.agentname.joined_linear.default
SIZE = ALIGNMENT_BYTES // 4  # of float32: a bias that is as well aligned inside of joined ones as alone


class Attends(nn.Module):
    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(SIZE, n * SIZE, bias) for n in (2, 1, 1))

    def forward(self, hidden: Tensor) -> Tensor:
        return torch.tanh(self.q(hidden)) * torch.cat([self.k(hidden), self.v(hidden)], -1)


class Block(nn.Module):
    """Queries, keys, values and a layer beside them read the same; the last layer reads what they made."""

    def __init__(self, bias: bool = True) -> None:
        super().__init__()
        self.norm, self.attends = nn.LayerNorm(SIZE), Attends(bias)
        self.up, self.down = nn.Linear(SIZE, 2 * SIZE, bias), nn.Linear(2 * SIZE, SIZE, bias)

    def forward(self, hidden: Tensor) -> Tensor:
        normed = self.norm(hidden)
        together = torch.nn.functional.gelu(self.up(normed)) + self.attends(normed)
        return hidden + self.down(together).view(hidden.shape[0], -1, SIZE)


class Chain(nn.Module):
    """No two layers read the same."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(SIZE, SIZE), nn.Linear(SIZE, SIZE)

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden + self.two(self.one(hidden))


class Writes(Chain):
    """What the second layer reads has been written to."""

    def __init__(self, write: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.write = write

    def forward(self, hidden: Tensor) -> Tensor:
        normed = torch.tanh(hidden)
        first = self.one(normed)
        self.write(normed)
        return first + self.two(normed)


class Views(Chain):
    """Needs outputs whose rows follow one another."""

    def forward(self, hidden: Tensor) -> Tensor:
        together = self.one(hidden).view(-1) + self.two(hidden).view(-1)
        return together.view(hidden.shape)


class Denoiser(nn.Module):
    def __init__(self, make: Callable[[], nn.Module] = Block) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList(make() for _ in range(2))
        self._repeated_blocks = [type(self.blocks[0]).__name__]

    def forward(self, hidden: Tensor) -> Tensor:
        for block in self.blocks:
            hidden = block(hidden)
        return hidden


class KeepGraphs:
    """A backend that returns each graph as it is, and keeps it."""

    def __init__(self) -> None:
        self.graphs: list[torch.fx.GraphModule] = []
        self.refuses_joined = False

    def __call__(self, graph: torch.fx.GraphModule, inputs: Any) -> Callable[..., Any]:
        if self.refuses_joined and _count(graph, JOINED):
            raise ValueError("no such operator")
        self.graphs.append(graph)
        return graph.forward


def _count(graph: torch.fx.GraphModule, target: Any) -> int:
    return sum(node.target is target for node in graph.graph.nodes)


def has_values(graph: torch.fx.GraphModule) -> bool:
    """Whether the compiler can tell that what was put into the graph are tensors; else it does not cache the whole."""
    return all("example_value" in node.meta for node in graph.graph.nodes if node.target in (JOINED, torch.narrow))


def products(backend: KeepGraphs) -> tuple[int, int]:
    """Of the first graph: joined ones, others."""
    graph = backend.graphs[0]
    return _count(graph, JOINED), _count(graph, torch.nn.functional.linear)


class Model:
    """A denoiser whose blocks are compiled after its first forward."""

    def __init__(self, denoiser: nn.Module, backend: Any) -> None:
        self.denoiser = denoiser
        self.blocks = CompiledBlocks([denoiser], backend=backend)
        self._forward = self.blocks.wrap_forward(denoiser.forward, allowed=True)

    @torch.no_grad()
    def __call__(self, hidden: Tensor) -> Tensor:
        result: Tensor = self._forward(hidden)
        self.blocks.job_ended()
        return result

    @property
    def n_joined(self) -> int:
        return self.blocks.n_joined


def held_bytes(module: nn.Module) -> int:
    storages = {each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for each in module.parameters()}
    return sum(storages.values())


def take_apart(module: nn.Module) -> None:
    """As parking does: each parameter gets memory of its own."""
    for weight in module.parameters():
        weight.data = weight.data.clone()


@pytest.fixture
def backend() -> Iterator[KeepGraphs]:
    yield KeepGraphs()
    torch.compiler.reset()


@pytest.mark.slow
@pytest.mark.parametrize("bias", [False, True])
def test_layers_that_read_the_same_are_one_product_and_compute_the_same(backend: KeepGraphs, bias: bool) -> None:
    model = Model(Denoiser(lambda: Block(bias)), backend)
    hidden = torch.randn(2, 5, SIZE)
    expected = model(hidden)

    for _ in range(2):
        torch.testing.assert_close(model(hidden), expected)

    assert len(backend.graphs) == 1
    assert products(backend) == (1, 1)
    assert has_values(backend.graphs[0])
    assert model.n_joined == 2 * (1 + bias)  # blocks, weights and biases


def test_one_graph_fits_other_numbers_of_rows(backend: KeepGraphs) -> None:
    model = Model(Denoiser(), backend)
    model(torch.randn(2, 5, SIZE))
    model(torch.randn(2, 5, SIZE))

    for hidden in (torch.randn(3, 4, SIZE), torch.randn(2, 9, SIZE)):
        with torch.no_grad():
            torch.testing.assert_close(model(hidden), Denoiser()(hidden))

    assert len(backend.graphs) == 1


def test_weights_are_held_once_stay_the_same_parameters_and_compute_the_same_bits_as_written(
    backend: KeepGraphs,
) -> None:
    model = Model(Denoiser(), backend)
    parameters = dict(model.denoiser.named_parameters())
    values = {name: weight.detach().clone() for name, weight in parameters.items()}
    n_bytes = held_bytes(model.denoiser)
    hidden = torch.randn(2, 5, SIZE)
    for _ in range(3):
        model(hidden)

    assert held_bytes(model.denoiser) == n_bytes
    assert all(weight is parameters[name] for name, weight in model.denoiser.named_parameters())
    assert all(torch.equal(weight, values[name]) for name, weight in parameters.items())
    assert all(weight.data_ptr() % 64 == 0 for weight in parameters.values())
    with torch.no_grad():
        assert torch.equal(model.denoiser(hidden), Denoiser()(hidden))


@pytest.mark.slow
def test_weights_that_were_moved_one_by_one_are_joined_again_after_the_first_call(backend: KeepGraphs) -> None:
    model = Model(Denoiser(), backend)
    hidden = torch.randn(2, 5, SIZE)
    expected = model(hidden)
    model(hidden)
    n_joined = model.n_joined
    take_apart(model.denoiser)
    model.blocks.take_delay()

    torch.testing.assert_close(model(hidden), expected)
    assert model.n_joined == 2 * n_joined
    assert model.blocks.take_delay()
    torch.testing.assert_close(model(hidden), expected)
    assert model.n_joined == 2 * n_joined
    assert not model.blocks.take_delay()
    assert len(backend.graphs) == 1


def test_two_models_over_the_same_parameters_join_them_once(backend: KeepGraphs) -> None:
    one, other = Model(Denoiser(), backend), Denoiser()
    for mine, theirs in zip(one.denoiser.blocks.modules(), other.blocks.modules(), strict=True):
        theirs._parameters.update(mine._parameters)
    second, hidden = Model(other, backend), torch.randn(2, 5, SIZE)
    expected = one(hidden)
    one(hidden)
    for _ in range(3):
        torch.testing.assert_close(second(hidden), expected)

    assert one.n_joined == 4
    assert second.n_joined == 0
    assert len(backend.graphs) == 1


def test_a_block_without_layers_that_read_the_same_is_left_as_it_is(backend: KeepGraphs) -> None:
    model = Model(Denoiser(Chain), backend)
    for _ in range(2):
        model(torch.randn(2, 5, SIZE))

    assert products(backend) == (0, 2)


WRITES: dict[str, Callable[[Tensor], object]] = {
    "in place": lambda hidden: hidden.add_(1),
    "a function": lambda hidden: torch.nn.functional.relu(hidden, inplace=True),
    "an operator": lambda hidden: hidden.__iadd__(1),
    "a part of it": lambda hidden: hidden[:, :2].mul_(2),
    "items": lambda hidden: hidden.__setitem__(0, 1.0),
    "out": lambda hidden: torch.neg(hidden, out=hidden),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_layers_with_a_write_between_are_left_apart(backend: KeepGraphs, write: Callable[[Tensor], object]) -> None:
    model = Model(Denoiser(lambda: Writes(write)), backend)
    hidden = torch.randn(2, 5, SIZE)
    expected = model(hidden)

    torch.testing.assert_close(model(hidden), expected)
    assert products(backend) == (0, 2)


def test_weights_that_would_be_aligned_worse_than_alone_are_left_apart() -> None:
    found = []

    def count(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        found.append(join_products(graph))
        return graph.forward

    layers = nn.ModuleList([nn.Linear(SIZE, SIZE + 1), nn.Linear(SIZE, SIZE)])
    with torch.no_grad():
        torch.compile(lambda hidden: layers[0](hidden)[..., :SIZE] + layers[1](hidden), backend=count)(
            torch.randn(2, SIZE)
        )
    torch.compiler.reset()

    assert found == [0]


def test_a_graph_that_the_compiler_refuses_joined_is_compiled_apart_and_told(backend: KeepGraphs) -> None:
    backend.refuses_joined = True
    model = Model(Denoiser(), backend)
    hidden = torch.randn(2, 5, SIZE)
    expected = model(hidden)

    torch.testing.assert_close(model(hidden), expected)

    assert products(backend) == (0, 5)
    first, second = model.blocks.notes
    assert first == "Its blocks run compiled: Block (1 graph)."
    assert second.startswith("The matrix products of Block are not joined: ")
    assert "no such operator" in second


@pytest.mark.slow
def test_a_block_that_needs_the_rows_of_a_product_one_after_the_other_is_compiled_apart() -> None:
    model = Model(Denoiser(Views), "aot_eager")
    hidden = torch.randn(2, 5, SIZE)
    expected = model(hidden)

    torch.testing.assert_close(model(hidden), expected)
    torch.compiler.reset()

    assert any("run compiled: Views (1 graph)" in note for note in model.blocks.notes)
    assert any("of Views are not joined" in note for note in model.blocks.notes)


def test_weights_for_whose_joining_memory_is_lacking_stay_apart(
    backend: KeepGraphs, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Model(Denoiser(), backend)
    hidden = torch.randn(2, 5, SIZE)
    expected = model(hidden)

    def full(weights: Any) -> None:
        raise torch.OutOfMemoryError("full")

    monkeypatch.setattr("pipelines.diffusion.weight_joiner.join", full)
    for _ in range(2):
        torch.testing.assert_close(model(hidden), expected)

    assert model.n_joined == 0
    assert any("are not joined: OutOfMemoryError: full" in note for note in model.blocks.notes)
