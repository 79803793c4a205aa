"""Decides which calls of a module can share one forward, and joins and splits them. Device thread only.

Two calls merge when module, entry point and argument structure are the same, other arguments are equal, and each tensor
is one of these kinds:
  rows    batch-leading, with equal trailing shape and dtype: concatenated. Prompts of three dimensions that lead with
          rows * frames count as rows too where the first argument has five dimensions: they are given for each frame.
  places  batch-leading integers of three dimensions or more, the coordinates of tokens: concatenated, but they must
          also be equal by value, because models read them from the first row.
  scalar  0-d or one element, such as the timestep: expanded to one value per row.
  shared  anything else: must be equal by value, and is passed once.
A list with one entry per row counts as rows, unless each of its tensors leads with all rows itself, as the pictures of
IP-Adapters do: these are rows one by one. That a module keeps its rows apart is not assumed here but proved on real
calls (`proof.py`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import torch
from torch.utils import _pytree as pytree
from torch.utils.weak import WeakIdKeyDictionary

from pipelines.batching import torch_modes

Structure: TypeAlias = tuple[Hashable, ...]  # component, entry, then how the call's arguments are built
Kind: TypeAlias = str  # "rows" | "places" | "list" | "scalar" | "shared" | "generator" | "value"
_PLAIN = (bool, int, float, str, bytes, type(None), torch.dtype, torch.device)

# Digests of shared tensors (position ids, rotary tables). A job makes such a tensor once and passes it at every step,
# so it is hashed once. A module global because the digest is a fact about the tensor, not about any lane. The tensor's
# version is stored with the digest: after a write in place the tensor is hashed again.
_digests: WeakIdKeyDictionary = WeakIdKeyDictionary()


@dataclass(frozen=True, slots=True)
class Call:
    """A pending call of `function`. `component` and `entry` name what is called: "transformer", "forward"."""

    component: str
    entry: str
    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    modes: torch_modes.TorchModes = field(default_factory=torch_modes.current)  # of the caller

    def run(self) -> Any:
        return self.function(*self.args, **self.kwargs)


@dataclass(frozen=True, slots=True)
class CallSignature:
    """What decides whether calls merge: those with equal `key` may share a forward.

    `structure` determines how they are joined, whatever their sizes; `shape` adds the sizes.
    """

    key: Hashable
    structure: Structure
    shape: Hashable


@dataclass(frozen=True, slots=True)
class RowLayout:
    """The leading dimensions by which a tensor of a call counts as having the call's rows."""

    rows: int
    frame_rows: frozenset[int] = frozenset()  # of clips: rows * frames, for either axis that may be the frames


class Unmergeable(Exception):
    """The output of the merged call cannot be split by rows."""


def signature_of(call: Call) -> CallSignature | None:
    """The signature of a call; None when no argument shows the number of rows."""
    layout = _row_layout(call)
    if layout is None:
        return None
    leaves, spec = _flatten(call, layout.rows)
    described = [_describe(leaf, layout) for leaf in leaves]
    switches = tuple(leaf for leaf in leaves if leaf is None or isinstance(leaf, bool))  # they select code paths
    structure = (call.component, call.entry, spec, tuple(kind for kind, _ in described), switches, call.modes)
    shape = (structure, layout.rows, tuple(detail for kind, detail in described if kind == "rows"))
    return CallSignature((shape, tuple(detail for _, detail in described)), structure, shape)


def run_merged(calls: Sequence[Call], width: int) -> list[Any]:
    """Run calls of one `CallSignature.key` as one forward, padded to `width` calls; returns one output per call.

    Repeats of the last call are the padding. Raises `Unmergeable` when an output leaf does not lead with all rows.
    """
    padded = [*calls, *[calls[-1]] * (width - len(calls))]
    layout = _row_layout(calls[0])
    assert layout is not None, "calls without rows have no signature"
    flat = [_flatten(call, layout.rows) for call in padded]
    leaves, spec = flat[0]
    row_device = next((leaf.device for leaf in leaves if _describe(leaf, layout)[0] == "rows"), None)
    joined = [_join(column, layout, row_device) for column in zip(*(leaves for leaves, _ in flat), strict=True)]
    args, kwargs = pytree.tree_unflatten(joined, spec)
    return _split(calls[0].function(*args, **kwargs), layout.rows, width)[: len(calls)]


def perturbed(call: Call) -> Call:
    """A call with the same `CallSignature.key` and other values in every row and scalar: its own, flipped or shifted.

    The module's output for it shows whether rows affect each other, even where all real calls are alike.
    """
    layout = _row_layout(call)
    assert layout is not None, "calls without rows have no signature"
    leaves, spec = _flatten(call, layout.rows)
    args, kwargs = pytree.tree_unflatten([_perturbed_leaf(leaf, layout) for leaf in leaves], spec)
    return replace(call, args=args, kwargs=kwargs)


def bucket(count: int, limit: int) -> tuple[int, int]:
    """Return how many of `count` calls to run together, and at which width.

    The width is a power of two, of which at most a quarter is padding. At a constant width each row is bit-identical
    whatever the other rows hold, so only few widths are used.
    """
    count = min(count, limit)
    below = 1 << (count.bit_length() - 1)
    above = below if below == count else below * 2
    if above <= limit and count * 4 >= above * 3:
        return count, above
    return below, below


def difference(one: Any, other: Any) -> float:
    """Largest absolute difference of two outputs, relative to the larger of 1 and the largest value of `one`.

    Infinite when the outputs have different structures or shapes, or hold NaN.
    """
    leaves, spec = pytree.tree_flatten(one)
    other_leaves, other_spec = pytree.tree_flatten(other)
    if spec != other_spec:
        return float("inf")
    return max((_leaf_difference(a, b) for a, b in zip(leaves, other_leaves, strict=True)), default=0.0)


def generators_of(call: Call) -> list[torch.Generator]:
    return [leaf for leaf in pytree.tree_leaves((call.args, call.kwargs)) if isinstance(leaf, torch.Generator)]


def _row_layout(call: Call) -> RowLayout | None:
    for value in (*call.args, *call.kwargs.values()):
        if isinstance(value, torch.Tensor) and value.ndim >= 2:
            frames = value.shape[1:3] if value.ndim == 5 else ()
            return RowLayout(value.shape[0], frozenset(value.shape[0] * n for n in frames if n > 1))
        if isinstance(value, list) and value and all(isinstance(item, torch.Tensor) for item in value):
            return RowLayout(len(value))
    return None


def _flatten(call: Call, rows: int) -> tuple[list[Any], pytree.TreeSpec]:
    in_tensor = any(
        isinstance(value, torch.Tensor) and value.ndim >= 2 for value in (*call.args, *call.kwargs.values())
    )

    def one_per_row(node: Any) -> bool:
        if not isinstance(node, list) or len(node) != rows:
            return False
        if in_tensor and all(isinstance(x, torch.Tensor) and x.ndim >= 3 and x.shape[0] == rows for x in node):
            return False
        return all(isinstance(x, (torch.Tensor, str)) for x in node)

    return pytree.tree_flatten((call.args, call.kwargs), is_leaf=one_per_row)


def _describe(leaf: Any, layout: RowLayout) -> tuple[Kind, Hashable]:
    rows = layout.rows
    match leaf:
        case torch.Tensor() if (
            leaf.ndim >= 3 and leaf.shape[0] == rows and not leaf.is_floating_point() and leaf.dtype != torch.bool
        ):
            return "places", _digest(leaf)
        case torch.Tensor() if leaf.ndim > 0 and leaf.shape[0] == rows:
            return "rows", (leaf.shape[1:], leaf.dtype)
        case torch.Tensor() if leaf.ndim == 3 and leaf.is_floating_point() and leaf.shape[0] in layout.frame_rows:
            return "rows", (leaf.shape, leaf.dtype)
        case torch.Tensor() if leaf.numel() == 1:
            return "scalar", leaf.dtype
        case torch.Tensor():
            return "shared", _digest(leaf)
        case torch.Generator():
            return "generator", None
        case list():
            return "list", None
        case _ if isinstance(leaf, _PLAIN):
            return "value", (type(leaf), leaf)
        case _:
            return "value", id(leaf)


def _digest(tensor: torch.Tensor) -> Hashable:
    version = -1 if tensor.is_inference() else tensor._version
    known: tuple[int, Hashable] | None = _digests.get(tensor)
    if known is not None and known[0] == version != -1:
        return known[1]
    raw = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
    digest = (tuple(tensor.shape), tensor.dtype, hashlib.blake2b(raw.data, digest_size=16).digest())
    _digests[tensor] = (version, digest)
    return digest


def _join(column: tuple[Any, ...], layout: RowLayout, row_device: torch.device | None) -> Any:
    """row_device: of the rows. A scalar may be on another device, a tensor with one value per row may not."""
    kind, _ = _describe(column[0], layout)
    match kind:
        case "rows" | "places":
            return torch.cat(column)
        case "scalar":
            return torch.cat([value.reshape(1).expand(layout.rows) for value in column]).to(row_device)
        case "list":
            return [item for part in column for item in part]
        case _:
            return column[0]


def _perturbed_leaf(leaf: Any, layout: RowLayout) -> Any:
    kind, _ = _describe(leaf, layout)
    if kind == "list":
        return [
            _perturbed_leaf(item[None], RowLayout(1))[0] if isinstance(item, torch.Tensor) and item.ndim else item
            for item in leaf
        ]
    if kind not in ("rows", "scalar") or leaf.dtype == torch.bool:
        return leaf
    flipped = leaf.flip(tuple(range(1, leaf.ndim))) if leaf.ndim >= 2 else leaf
    if leaf.is_floating_point():
        return flipped * 0.5 + 0.25
    if leaf.ndim >= 2 and bool((leaf <= 1).all()):
        return leaf  # a mask: flipped, it might mask everything
    # Halves stay within a vocabulary or a table of styles; adding one makes sure that a timestep changes.
    halved = leaf // 2 + (leaf.ndim == 0)
    return halved if torch.equal(flipped, leaf) else flipped


def _split(output: Any, rows: int, width: int) -> list[Any]:
    def one_per_row(node: Any) -> bool:
        return isinstance(node, list) and len(node) == rows * width

    leaves, spec = pytree.tree_flatten(output, is_leaf=one_per_row)
    parts: list[list[Any]] = [[] for _ in range(width)]
    for leaf in leaves:
        sliceable = isinstance(leaf, list) or (
            isinstance(leaf, torch.Tensor) and leaf.ndim > 0 and leaf.shape[0] == rows * width
        )
        if not sliceable and not isinstance(leaf, _PLAIN):
            raise Unmergeable(f"an output of {type(leaf).__name__} does not lead with {rows * width} rows")
        for i, part in enumerate(parts):
            part.append(leaf[i * rows : (i + 1) * rows] if sliceable else leaf)
    return [pytree.tree_unflatten(part, spec) for part in parts]


def _leaf_difference(a: Any, b: Any) -> float:
    if not isinstance(a, torch.Tensor) or not isinstance(b, torch.Tensor):
        return 0.0 if a is b or a == b else float("inf")
    if a.shape != b.shape:
        return float("inf")
    if a.numel() == 0:
        return 0.0
    gap = float((a.float() - b.float()).abs().max())
    return gap / max(1.0, float(a.float().abs().max())) if gap == gap else float("inf")
