"""Linear layers that read the same input, joined to one matrix product without holding their weights twice."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipelines.chat.decode.joined import JoinedLinears


class Attends(nn.Module):
    """Three layers read the same; the last reads what they made."""

    def __init__(self, bias: bool = False) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(8, 8, bias), nn.Linear(8, 4, bias), nn.Linear(8, 4, bias)
        self.norm = nn.LayerNorm(8)
        self.o = nn.Linear(8, 8, bias)

    def forward(self, hidden: Tensor) -> Tensor:
        query = self.norm(self.q(hidden))  # what is no linear layer may come between them
        mixed: Tensor = self.o(query * torch.cat([self.k(hidden), self.v(hidden)], -1))
        return mixed


def joined(model: nn.Module) -> JoinedLinears:
    found = JoinedLinears(model, lambda: model(torch.randn(1, 8)))
    found.join()
    return found


def names(found: JoinedLinears) -> list[tuple[str, ...]]:
    return [group.names for group in found._groups]


@pytest.mark.parametrize("bias", [False, True])
@torch.no_grad()
def test_the_first_layer_computes_for_all_and_the_results_are_the_same(bias: bool) -> None:
    torch.manual_seed(0)
    model, hidden = Attends(bias), torch.randn(3, 8)
    expected, own = model(hidden), dict(model.named_modules())
    found = joined(model)
    products: list[Any] = []
    linear = nn.functional.linear
    with found.used(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.functional, "linear", lambda *args: products.append(args) or linear(*args))
        together = model(hidden)

    assert names(found) == [("q", "k", "v")]
    assert len(products) == 2
    torch.testing.assert_close(together, expected)
    torch.testing.assert_close(model(hidden), expected)
    assert dict(model.named_modules()) == own


def test_weights_are_held_once_and_stay_the_parameters_that_they_were() -> None:
    model = Attends()
    parameters = {name: (id(weight), weight.detach().clone()) for name, weight in model.named_parameters()}
    joined(model)

    for name, weight in model.named_parameters():
        assert id(weight) == parameters[name][0]
        assert torch.equal(weight, parameters[name][1])
    storages = {each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for each in model.parameters()}
    assert sum(storages.values()) == sum(each.nbytes for each in model.parameters())


@torch.no_grad()
def test_weights_that_were_moved_one_by_one_are_joined_again() -> None:
    model, hidden = Attends(), torch.randn(3, 8)
    expected, found = model(hidden), joined(model)
    whole = model.q.weight.untyped_storage().nbytes()
    for weight in model.parameters():
        weight.data = weight.data.clone()
    assert model.q.weight.untyped_storage().nbytes() < whole, "nothing else holds what they were parts of"
    found.join()

    with found.used():
        torch.testing.assert_close(model(hidden), expected)


def _tied(model: Attends) -> None:
    model.v.weight = model.k.weight


def _hooked(model: Attends) -> None:
    model.k.register_forward_hook(lambda *_: None)


def _of_another_kind(model: Attends) -> None:
    class Quantized(nn.Linear):
        pass

    model.k = Quantized(8, 4, bias=False)


@pytest.mark.parametrize(("change", "left"), [(_tied, []), (_hooked, []), (_of_another_kind, [])])
def test_layers_that_are_not_plain_are_left_alone(change: Any, left: list[tuple[str, ...]]) -> None:
    model = Attends()
    change(model)

    assert names(joined(model)) == left


def test_a_layer_that_is_called_twice_is_left_alone() -> None:
    class Twice(Attends):
        def forward(self, hidden: Tensor) -> Tensor:
            return super().forward(hidden) + self.k(hidden).sum()

    assert names(joined(Twice())) == []
