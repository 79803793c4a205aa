"""Which calls can share a forward, and how their tensors are joined and split."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipelines.batching.merging import Call, Unmergeable, bucket, difference, perturbed, run_merged, signature_of


def call(*args: Any, **kwargs: Any) -> Call:
    return Call("net", "forward", lambda *a, **k: (a, k), args, kwargs)


def key(one: Call) -> Any:
    signature = signature_of(one)
    assert signature is not None
    return signature.key


@given(count=st.integers(1, 200), limit=st.integers(1, 64))
def test_a_bucket_takes_as_many_calls_as_it_can_and_pads_by_at_most_a_quarter(count: int, limit: int) -> None:
    take, width = bucket(count, limit)

    assert 1 <= take <= count
    assert take <= width <= limit
    assert width & (width - 1) == 0, "widths are powers of two"
    assert (width - take) * 4 <= width
    assert take * 2 > min(count, limit), "more than half of the waiting calls run at once"


@given(limit=st.integers(1, 64))
def test_few_widths_are_ever_used(limit: int) -> None:
    assert len({bucket(count, limit)[1] for count in range(1, 200)}) <= limit.bit_length()


def test_calls_that_differ_only_in_values_of_rows_and_scalars_share_a_key() -> None:
    one = call(torch.zeros(2, 4, 8, 8), torch.tensor(999), return_dict=False)
    other = call(torch.ones(2, 4, 8, 8), torch.tensor(3), return_dict=False)

    assert key(one) == key(other)


@pytest.mark.parametrize("rows", [1, 2])
def test_list_of_tensors_that_lead_with_all_rows_is_joined_one_by_one(rows: int) -> None:
    def net(latents: torch.Tensor, pictures: list[torch.Tensor]) -> torch.Tensor:
        """As a denoiser with IP-Adapters: one tensor for each adapter."""
        assert len(pictures) == rows
        return latents.sum((1, 2)) + sum(picture.sum((1, 2)) for picture in pictures)

    def one(value: float) -> Call:
        pictures = [torch.full((rows, 4, 8), value + i) for i in range(rows)]
        return Call("net", "forward", net, (torch.full((rows, 4, 8), value), pictures), {})

    calls = [one(0.0), one(1.0)]
    assert key(calls[0]) == key(calls[1])
    for alone, merged in zip(calls, run_merged(calls, 2), strict=True):
        assert torch.equal(merged, alone.run())


def test_prompts_given_for_each_frame_of_a_clip_are_rows_too_and_a_table_as_long_is_not() -> None:
    def net(clips: torch.Tensor, prompts: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
        assert table.shape == (6, 7)
        return prompts.unflatten(0, (len(clips), 3)).mean((1, 2, 3)) + clips.mean((1, 2, 3, 4)) + table.mean()

    def clip(value: float) -> Call:
        prompts = torch.arange(2 * 3).reshape(6, 1, 1).expand(6, 5, 7) * value
        return Call("net", "forward", net, (torch.full((2, 4, 3, 8, 8), value), prompts, torch.ones(6, 7)), {})

    calls = [clip(0.0), clip(1.0)]
    assert key(calls[0]) == key(calls[1])
    for alone, merged in zip(calls, run_merged(calls, 2), strict=True):
        assert torch.equal(merged, alone.run())


@pytest.mark.parametrize(
    "other",
    [
        call(torch.zeros(2, 4, 8, 9), torch.tensor(1), scale=1.0),  # a size
        call(torch.zeros(1, 4, 8, 8), torch.tensor(1), scale=1.0),  # rows
        call(torch.zeros(2, 4, 8, 8, dtype=torch.float16), torch.tensor(1), scale=1.0),  # a dtype
        call(torch.zeros(2, 4, 8, 8), torch.tensor(1.0), scale=1.0),  # a scalar's dtype
        call(torch.zeros(2, 4, 8, 8), torch.tensor(1), scale=2.0),  # another argument
        call(torch.zeros(2, 4, 8, 8), torch.tensor(1), scale=1),  # its type
        call(torch.zeros(2, 4, 8, 8), torch.tensor(1), other=1.0),  # its name
    ],
)
def test_calls_that_differ_in_anything_else_stay_apart(other: Call) -> None:
    assert key(call(torch.zeros(2, 4, 8, 8), torch.tensor(1), scale=1.0)) != key(other)


def test_shared_tensors_must_be_equal_by_value() -> None:
    table = torch.arange(5.0)

    assert key(call(torch.zeros(2, 3), table)) == key(call(torch.ones(2, 3), table.clone()))
    assert key(call(torch.zeros(2, 3), table)) != key(call(torch.ones(2, 3), table + 1))


def test_a_shared_tensor_that_is_written_to_is_hashed_again() -> None:
    table = torch.arange(5.0)
    before = key(call(torch.zeros(2, 3), table))
    table[0] = 9

    assert key(call(torch.zeros(2, 3), table)) != before


def test_a_call_without_rows_has_no_signature() -> None:
    assert signature_of(call("a prompt", torch.tensor(1))) is None


def test_joined_calls_get_their_own_rows_scalars_and_lists_back() -> None:
    def net(x: torch.Tensor, t: torch.Tensor, names: list[str], table: torch.Tensor) -> dict[str, Any]:
        assert t.shape == (len(x),)
        assert table.shape == (3,)
        return {"sample": x * t[:, None] + table, "names": [name.upper() for name in names], "flag": True}

    def of(value: float, t: int, names: list[str]) -> Call:
        return Call(
            "net", "forward", net, (torch.full((2, 3), value), torch.tensor(t)), {"names": names, "table": table}
        )

    table = torch.arange(3.0)
    one, other = run_merged([of(1.0, 10, ["a", "b"]), of(2.0, 20, ["c", "d"])], width=4)

    assert torch.equal(one["sample"], torch.full((2, 3), 10.0) + table)
    assert torch.equal(other["sample"], torch.full((2, 3), 40.0) + table)
    assert (one["names"], other["names"]) == (["A", "B"], ["C", "D"])
    assert one["flag"] is True


@pytest.mark.parametrize("output", [torch.zeros(3), torch.tensor(1.0), {"cache": object()}])
def test_an_output_that_does_not_lead_with_all_rows_cannot_be_split(output: Any) -> None:
    calls = [Call("net", "forward", lambda x: output, (torch.zeros(1, 2),), {})] * 2

    with pytest.raises(Unmergeable):
        run_merged(calls, width=2)


def test_a_perturbed_call_has_the_same_key_and_other_values_everywhere() -> None:
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    one = call(
        torch.randn(2, 3, 5), torch.tensor(0), torch.tensor([4.0, 8.0]), ids=torch.arange(6).view(2, 3), mask=mask
    )
    other = perturbed(one)

    assert key(one) == key(other)
    for before, after in zip((*one.args, one.kwargs["ids"]), (*other.args, other.kwargs["ids"]), strict=True):
        assert not torch.equal(before, after)
    assert torch.equal(other.kwargs["mask"], mask), "a flipped mask may mask everything"


def test_difference_is_relative_to_the_size_of_the_values_and_infinite_where_they_do_not_compare() -> None:
    assert difference(torch.tensor([100.0]), torch.tensor([101.0])) == pytest.approx(0.01)
    assert difference(torch.tensor([0.1]), torch.tensor([0.2])) == pytest.approx(0.1)
    assert difference((torch.zeros(2), "x"), (torch.zeros(2), "x")) == 0
    assert difference(torch.zeros(2), torch.zeros(3)) == float("inf")
    assert difference(torch.zeros(2), (torch.zeros(2),)) == float("inf")
    assert difference(torch.tensor([0.0]), torch.tensor([float("nan")])) == float("inf")
