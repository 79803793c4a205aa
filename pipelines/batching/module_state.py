"""Isolates changes that a task makes to shared modules: attention processors, hooks, cached attributes.

Device thread only.
Perturbed and self-attention guidance swap attention processors before their first step and restore them after the last;
Qwen-Image 2.1 hooks a norm of its text encoder for one call. Left on the modules while another task runs, such changes
would alter what that task computes, and the first task to end would remove them from the others. Language models also
cache an attribute on themselves between two tokens (`rope_deltas`, the shift of text positions): each task has its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from torch import nn
from torch.utils.hooks import RemovableHandle
from transformers import GenerationMixin

Hook: TypeAlias = tuple[dict[int, Any], int, Any]  # the module's dict of hooks, the hook's id in it, the hook
Attribute: TypeAlias = tuple[dict[str, Any], str, Any]  # the module's `__dict__`, the attribute's name, its value


@dataclass(slots=True)
class ModuleChanges:
    """The changes of one task, kept here while other tasks run."""

    processors: list[tuple[Any, Any]] = field(default_factory=list)  # (attention module, its processor)
    hooks: list[Hook] = field(default_factory=list)
    attributes: dict[str, list[Attribute]] = field(default_factory=dict)  # by component, cached by its forwards

    def __bool__(self) -> bool:
        """Whether the task's forwards compute something else than other tasks' forwards, and so cannot merge."""
        return bool(self.processors or self.hooks)


class ModuleState:
    """Applies and removes the changes of tasks on the watched modules."""

    def __init__(self) -> None:
        self._attention: dict[int, Any] = {}  # attention modules by id
        self._hooks: dict[int, dict[int, Any]] = {}  # every module's dicts of hooks, by id of the dict
        # By component: attributes (module's `__dict__`, name) that forwards of language models may set.
        self._cacheable: dict[str, list[tuple[dict[str, Any], str]]] = {}

    def watch(self, component: str, owner: nn.Module) -> None:
        cacheable = self._cacheable.setdefault(component, [])
        for module in owner.modules():
            self._hooks |= {id(hooks): hooks for hooks in (module._forward_hooks, module._forward_pre_hooks)}
            if hasattr(module, "set_processor"):
                self._attention[id(module)] = module
            if isinstance(owner, GenerationMixin):
                cacheable += [(vars(module), name) for name, value in vars(module).items() if value is None]

    @contextmanager
    def applied(self, changes: ModuleChanges, component: str) -> Iterator[None]:
        """Around a forward of `component`: within this context the modules have the task's changes."""
        before = [(module, module.processor) for module, _ in changes.processors]
        self._apply(changes)
        unset = [
            (attributes, name)
            for attributes, name in self._cacheable.get(component, ())
            if attributes.get(name) is None
        ]
        for attributes, name, value in changes.attributes.pop(component, ()):
            attributes[name] = value
        try:
            yield
        finally:
            for attributes, name in unset:
                if attributes.get(name) is not None:
                    changes.attributes.setdefault(component, []).append((attributes, name, attributes[name]))
                    attributes[name] = None
            for module, processor in before:
                module.set_processor(processor)
            for hooks, hook_id, _ in changes.hooks:
                hooks.pop(hook_id, None)

    @contextmanager
    def recorded(self, changes: ModuleChanges) -> Iterator[None]:
        """Around a task's own code: what it changes goes into `changes`, and afterwards the modules are as before."""
        before = [module.processor for module in self._attention.values()]
        next_hook_id = RemovableHandle.next_id
        self._apply(changes)
        try:
            yield
        finally:
            changes.hooks = self._take_off_hooks(changes.hooks, next_hook_id)
            pairs = zip(self._attention.values(), before, strict=True)
            changed = [
                (module, module.processor, processor)
                for module, processor in pairs
                if module.processor is not processor
            ]
            changes.processors = [(module, own) for module, own, _ in changed]
            for module, _, processor in changed:
                module.set_processor(processor)

    def _apply(self, changes: ModuleChanges) -> None:
        for module, processor in changes.processors:
            module.set_processor(processor)
        for hooks, hook_id, hook in changes.hooks:
            hooks[hook_id] = hook

    def _take_off_hooks(self, old: list[Hook], next_hook_id: int) -> list[Hook]:
        """Remove and return those of `old` that are still on their modules and all hooks from `next_hook_id` on.

        Hooks that transformers itself installs stay: it installs them once for the life of the model.
        """
        found = [(hooks, hook_id) for hooks, hook_id, _ in old if hook_id in hooks]
        if RemovableHandle.next_id != next_hook_id:
            new = [(hooks, hook_id) for hooks in self._hooks.values() for hook_id in hooks if hook_id >= next_hook_id]
            found += [(hooks, hook_id) for hooks, hook_id in new if not _belongs_to_transformers(hooks[hook_id])]
        return [(hooks, hook_id, hooks.pop(hook_id)) for hooks, hook_id in found]


def _belongs_to_transformers(hook: Any) -> bool:
    return str(getattr(hook, "__module__", "")).startswith("transformers.")
