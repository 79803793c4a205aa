"""Linear layers that read the same tensor, such as those for queries, keys and values, as one matrix product.

A matrix product is cut into tiles, which the multiprocessors of a GPU take in turns. The product of one layer of FLUX.1
at 1024² fills them to 82 %, because in the last turn most have nothing to do; that of four such layers to 99 %.

`join_products` rewrites the graph of a block that is to be compiled. One operator then takes the weights of all layers.
Where they are joined (`pipelines/joined_weights.py`), it computes one product. Where they are not, such as after they
were in host memory, it computes one for each layer and names the weights to whoever called the block, who may join
them. Compiled code fits both. Device thread, and worker process.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensor

from pipelines.joined_weights import are_joined, whole_of

# Kernels are chosen by the alignment of what they read, up to this. A part of joined weights is aligned as it was
# alone, so that blocks that run as written give the same bits.
ALIGNMENT_BYTES = 256

IN_PLACE = {
    operator.setitem,
    operator.delitem,
    *(operator.iadd, operator.isub, operator.imul, operator.itruediv, operator.ifloordiv, operator.imod, operator.ipow),
    *(operator.iand, operator.ior, operator.ixor, operator.ilshift, operator.irshift, operator.imatmul),
    operator.iconcat,
}

# Of the one thread that runs blocks: what the operator notes in the call under way. The operator gets tensors alone.
_noted: list[list[Tensor]] | None = None


@contextmanager
def noting_weights_apart() -> Iterator[list[list[Tensor]]]:
    """Collects lists of weights that compiled code, run in this block, would rather have had joined."""
    global _noted
    before, _noted = _noted, []
    try:
        yield _noted
    finally:
        _noted = before


@torch.library.custom_op("agentname::joined_linear", mutates_args=())
def joined_linear(hidden: Tensor, weights: list[Tensor], biases: list[Tensor]) -> Tensor:
    """The outputs of linear layers, one after the other in the last dimension. biases: of all layers, or none."""
    flat = hidden.reshape(-1, hidden.shape[-1])
    groups = [weights, biases] if biases else [weights]
    apart = [group for group in groups if not are_joined(group)]
    if not apart:
        output = nn.functional.linear(flat, *(whole_of(group) for group in groups))
        return output.view(*hidden.shape[:-1], output.shape[-1])
    if _noted is not None:
        _noted.extend(apart)
    output = _empty_output(hidden, weights)
    parts = output.view(len(flat), output.shape[-1]).split([len(weight) for weight in weights], -1)
    for i, (weight, part) in enumerate(zip(weights, parts, strict=True)):
        if biases:
            torch.addmm(biases[i], flat, weight.t(), out=part)
        else:
            torch.mm(flat, weight.t(), out=part)
    return output


@joined_linear.register_fake
def _shape_of_output(hidden: Tensor, weights: list[Tensor], biases: list[Tensor]) -> Tensor:
    return _empty_output(hidden, weights)


def _empty_output(hidden: Tensor, weights: Sequence[Tensor]) -> Tensor:
    return hidden.new_empty((*hidden.shape[:-1], sum(len(weight) for weight in weights)))


@dataclass(frozen=True, slots=True)
class Product:
    """A linear layer in a graph."""

    node: fx.Node
    hidden: fx.Node
    weight: fx.Node
    bias: fx.Node | None


def join_products(module: fx.GraphModule) -> int:
    """Rewrites the graph in place, as dynamo has traced it; returns the number of products that replace several."""
    groups = _groups(module.graph)
    for group in groups:
        _join(module.graph, group)
    if groups:
        module.recompile()
    return len(groups)


def _groups(graph: fx.Graph) -> list[list[Product]]:
    """Layers that read the same tensor, with nothing between them that may have written to it."""
    groups: list[list[Product]] = []
    growing: dict[Any, list[Product]] = {}
    for node in graph.nodes:
        if _may_write(node):
            growing.clear()
        elif (product := _product(node)) is not None:
            key = product.hidden, _value(product.weight).dtype, product.bias is None
            if key not in growing:
                growing[key] = []
                groups.append(growing[key])
            growing[key].append(product)
    return [group for group in groups if len(group) > 1]


def _join(graph: fx.Graph, group: Sequence[Product]) -> None:
    first = group[0]
    biases = [product.bias for product in group if product.bias is not None]
    with graph.inserting_before(first.node):
        weights = [product.weight for product in group]
        whole = graph.call_function(torch.ops.agentname.joined_linear.default, (first.hidden, weights, biases))
        # Without a value the compiler's cache of whole graphs would take a node for something that is no tensor.
        whole.meta["example_value"] = _empty_output(_value(first.hidden), [_value(weight) for weight in weights])
        start = 0
        for product in group:
            size = len(_value(product.weight))
            part = graph.call_function(torch.narrow, (whole, -1, start, size))
            part.meta["example_value"] = _value(whole).narrow(-1, start, size)
            product.node.replace_all_uses_with(part)
            start += size
    for product in group:
        graph.erase_node(product.node)


def _product(node: fx.Node) -> Product | None:
    """None: not a linear layer, or one whose weights cannot be joined to others."""
    if node.op != "call_function" or node.target is not nn.functional.linear:
        return None
    given: dict[str, Any] = {**dict(zip(("input", "weight", "bias"), node.args, strict=False)), **node.kwargs}
    hidden, weight, bias = given["input"], given["weight"], given.get("bias")
    if not all(_is_joinable(each) for each in (weight, bias) if each is not None) or _value(weight).ndim != 2:
        return None
    dtypes = {getattr(_value(each), "dtype", None) for each in (node, hidden, weight)}
    return Product(node, hidden, weight, bias) if len(dtypes) == 1 else None


def _is_joinable(node: fx.Node) -> bool:
    value = _value(node)
    return (
        node.op == "placeholder"
        and len(node.users) == 1
        and isinstance(value, FakeTensor)  # of torch's own kind of tensor, not a quantized one
        and isinstance(value, nn.Parameter)
        and value.is_contiguous()
        and value.nbytes % ALIGNMENT_BYTES == 0
    )


def _value(node: fx.Node) -> Any:
    return node.meta.get("example_value")


def _may_write(node: fx.Node) -> bool:
    """Whether it may write to a tensor that was made before."""
    target = node.target
    if node.kwargs.get("out") is not None or node.op == "call_module":
        return True
    if isinstance(target, str):
        return node.op == "call_method" and target.endswith("_")
    if isinstance(target, torch._ops.HigherOrderOperator):
        return True
    if isinstance(target, torch._ops.OpOverloadPacket):
        return any(getattr(target, name)._schema.is_mutable for name in target.overloads())
    if isinstance(target, torch._ops.OpOverload):
        return bool(target._schema.is_mutable)
    return target in IN_PLACE or target.__name__.endswith("_") or _is_told_to_write(node)


def _is_told_to_write(node: fx.Node) -> bool:
    """Whether a function such as `relu` is called with `inplace`."""
    try:
        given = inspect.signature(node.target).bind(*node.args, **node.kwargs).arguments  # type: ignore[arg-type]
    except (TypeError, ValueError):  # a function in C has no signature, and no such argument
        return False
    return bool(given.get("inplace"))
