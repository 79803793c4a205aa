"""Compiles the forward of a block with `torch.compile`, and counts what is compiled. Device thread, and worker process.

What is compiled is `forward` and not `__call__`: hooks on the block itself, at which a forward may be preempted or a
step may be skipped, stay outside of the compiled code. One artefact serves every block of a class, every size and every
width above 1, because sizes are symbols in it and weights are its inputs.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from pipelines import (
    device,
    stable_pickles,  # noqa: F401  # what it imports for is done by the import
)
from pipelines.compile_process import reason_of
from pipelines.diffusion.joined_products import join_products

Backend = str | Callable[..., Any]  # a name that torch.compile knows, or a function of a graph and its inputs

# Compiled forms that torch keeps of one `forward` before it refuses to make more. Models of one class share its code.
MOST_FORMS_OF_CODE = 64


class CountingBackend:
    """A backend of `torch.compile` that counts the graphs it compiles and how often compiled code runs.

    Before, it joins the products of each graph (`joined_products.py`).
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.n_graphs = 0
        self.n_runs = 0
        self.not_joined: dict[str, str] = {}  # by class of blocks: why its products are not joined
        self.current = ""  # the class of which a block is being compiled

    def __call__(self, graph: Any, inputs: Any) -> Callable[..., Any]:
        # Looked up by name only now: it imports the compiler, which takes seconds.
        backend = torch._dynamo.lookup_backend(self._backend) if isinstance(self._backend, str) else self._backend
        n_joined = join_products(graph) if self.current not in self.not_joined else 0
        try:
            artefact: Callable[..., Any] = backend(graph, inputs)
        except Exception as error:
            if n_joined and not (device.is_out_of_memory(error) or device.is_fatal(error)):
                self.not_joined[self.current] = reason_of(error)
            raise
        self.n_graphs += 1

        def run(*args: Any) -> Any:
            self.n_runs += 1
            return artefact(*args)

        if getattr(artefact, "_boxed_call", False):  # takes its inputs as one list, which it empties to free them
            run._boxed_call = True  # type: ignore[attr-defined]
        return run


@functools.cache
def counting(backend: Backend) -> CountingBackend:
    """One for the process, so that a second model of the same class finds what was compiled for the first."""
    return CountingBackend(backend)


def compiling(forward: Callable[..., Any], backend: Backend) -> Callable[..., Any]:
    """`forward` of a module, compiled at its first call and whenever the code so far does not fit the arguments."""
    counts = counting(backend)
    compiled = torch.compile(forward, fullgraph=True, dynamic=True, backend=counts)
    name = class_of(forward)

    @functools.wraps(forward)
    def run(*args: Any, **kwargs: Any) -> Any:
        counts.current, was_joined = name, name not in counts.not_joined
        with compiler_settings():
            try:
                return compiled(*args, **kwargs)
            except Exception:
                if not (was_joined and name in counts.not_joined):
                    raise
            return compiled(*args, **kwargs)  # traced again, and not joined

    return run


def class_of(forward: Callable[..., Any]) -> str:
    return type(getattr(forward, "__self__", forward)).__name__


def compiled_only(forward: Callable[..., Any]) -> Callable[..., Any]:
    """`forward` that runs compiled code where such code fits the arguments, and as written where none does."""
    run: Callable[..., Any] = torch._dynamo.run(forward)
    return run


@contextmanager
def compiler_settings() -> Iterator[None]:
    """Settings of torch under which blocks are compiled, here and in the worker: they are part of a cache's key."""
    import torch.fx.experimental._config as symbols

    # Sizes that happen to be equal in one call, such as height and width, need not be in the next. Numbers of layers,
    # such as the epsilon of a norm, are constants: as symbols they would make torch trace every block twice.
    options = {"recompile_limit": MOST_FORMS_OF_CODE, "accumulated_recompile_limit": 256, "specialize_float": True}
    with symbols.patch(use_duck_shape=False), torch._dynamo.config.patch(options):  # type: ignore[attr-defined]
        yield
