"""What stock code leaves on the shared modules, attention processors, hooks, places in a text, is on them for its own task alone. Device thread only.

Perturbed and self-attention guidance swap processors before their first step and put them back after the last; Qwen-Image 2.1 hooks a
norm of its text encoder for one call. Left where they are between two turns of a task, they would change what the others compute, and
whoever ends first would take them away from the rest. A language model that writes remembers on itself, from one token to the next, how far the
positions of its text are shifted (`rope_deltas`): of each task its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from torch import nn
from torch.utils.hooks import RemovableHandle
from transformers import GenerationMixin

Hook: TypeAlias = tuple[dict[int, Any], int, Any]  # where it hangs, its number, itself
Place: TypeAlias = tuple[dict[str, Any], str, Any]  # a module's attributes, the name of one, its value


@dataclass(slots=True)
class Fitted:
    """What one task has fitted, kept while another one runs."""

    processors: list[tuple[Any, Any]] = field(default_factory=list)  # attention, its processor
    hooks: list[Hook] = field(default_factory=list)
    left: dict[str, list[Place]] = field(
        default_factory=dict
    )  # by its own forwards, by component; they may merge nevertheless

    def __bool__(self) -> bool:
        return bool(self.processors or self.hooks)


class ModuleState:
    def __init__(self) -> None:
        self._attention: dict[int, Any] = {}  # by id
        self._hooks: dict[int, dict[int, Any]] = {}  # by id, those of every module
        self._empty: dict[
            str, list[tuple[dict[str, Any], str]]
        ] = {}  # what forwards of language models may fill, by component

    def watch(self, component: str, owner: nn.Module) -> None:
        may_fill = self._empty.setdefault(component, [])
        for module in owner.modules():
            self._hooks |= {id(hooks): hooks for hooks in (module._forward_hooks, module._forward_pre_hooks)}
            if hasattr(module, "set_processor"):
                self._attention[id(module)] = module
            if isinstance(owner, GenerationMixin):
                may_fill += [(vars(module), name) for name, value in vars(module).items() if value is None]

    @contextmanager
    def worn(self, own: Fitted, component: str) -> Iterator[None]:
        """For a forward of that component: inside, what `own` holds is on the modules."""
        before = [(part, part.processor) for part, _ in own.processors]
        self._put_on(own)
        empty = [
            (attributes, name) for attributes, name in self._empty.get(component, ()) if attributes.get(name) is None
        ]
        for attributes, name, value in own.left.pop(component, ()):
            attributes[name] = value
        try:
            yield
        finally:
            for attributes, name in empty:
                if attributes.get(name) is not None:
                    own.left.setdefault(component, []).append((attributes, name, attributes[name]))
                    attributes[name] = None
            for part, processor in before:
                part.set_processor(processor)
            for hooks, number, _ in own.hooks:
                hooks.pop(number, None)

    @contextmanager
    def changed(self, own: Fitted) -> Iterator[None]:
        """For a task's own code: what it has changed in here is its own from then on, and the modules are as before."""
        found = [part.processor for part in self._attention.values()]
        next_hook = RemovableHandle.next_id
        self._put_on(own)
        try:
            yield
        finally:
            own.hooks = self._unhooked(own.hooks, next_hook)
            pairs = zip(self._attention.values(), found, strict=True)
            changed = [(part, part.processor, before) for part, before in pairs if part.processor is not before]
            own.processors = [(part, processor) for part, processor, _ in changed]
            for part, _, before in changed:
                part.set_processor(before)

    def _put_on(self, own: Fitted) -> None:
        for part, processor in own.processors:
            part.set_processor(processor)
        for hooks, number, hook in own.hooks:
            hooks[number] = hook

    def _unhooked(self, old: list[Hook], next_hook: int) -> list[Hook]:
        """Those of `old` that are still there and all from `next_hook` on, taken off; but transformers hooks a model once and for all."""
        places = [(hooks, number) for hooks, number, _ in old if number in hooks]
        if RemovableHandle.next_id != next_hook:
            new = [(hooks, n) for hooks in self._hooks.values() for n in hooks if n >= next_hook]
            places += [(hooks, n) for hooks, n in new if not _belongs_to_transformers(hooks[n])]
        return [(hooks, number, hooks.pop(number)) for hooks, number in places]


def _belongs_to_transformers(hook: Any) -> bool:
    return str(getattr(hook, "__module__", "")).startswith("transformers.")
