"""Isolates changes that a task makes to shared modules: attention processors, hooks, attributes. Device thread only.

Perturbed and self-attention guidance swap attention processors before their first step and restore them after the last;
Qwen-Image 2.1 hooks a norm of its text encoder for one call; an IP-Adapter sets processors and a projection of its own.
Left on the modules while another task runs, such changes would alter what that task computes, and the first task to end
would remove them from the others. Language models also cache an attribute on themselves between two tokens
(`rope_deltas`, the shift of text positions): each task has its own.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from torch import nn
from torch.utils.hooks import RemovableHandle
from transformers import GenerationMixin

Hook: TypeAlias = tuple[dict[int, Any], int, Any]  # the module's dict of hooks, the hook's id in it, the hook
Attribute: TypeAlias = tuple[dict[str, Any], str, Any]  # the module's `__dict__`, the attribute's name, its value
Setting: TypeAlias = tuple[Any, str, Any]  # a module or its config, the attribute's name, its value

# Attributes of a denoiser and of its config that diffusers sets when it loads an IP-Adapter.
OF_IP_ADAPTERS = ("encoder_hid_proj", "text_encoder_hid_proj", "image_proj")
IN_CONFIG = "encoder_hid_dim_type"
ABSENT = object()


@dataclass(slots=True)
class ModuleChanges:
    """The changes of one task, kept here while other tasks run."""

    processors: list[tuple[Any, Any]] = field(default_factory=list)  # (attention module, its processor)
    settings: list[Setting] = field(default_factory=list)
    hooks: list[Hook] = field(default_factory=list)
    attributes: dict[str, list[Attribute]] = field(default_factory=dict)  # by component, cached by its forwards
    # Component → what identifies the processors and settings that its forwards run with. Of a component with none, no
    # key; tasks with equal ones share the objects, and so may share forwards.
    identities: dict[str, Hashable] = field(default_factory=dict)
    hooked: set[str] = field(default_factory=set)  # components with hooks: their forwards run alone

    def shared(self) -> ModuleChanges:
        """Those that a forward of several tasks with equal identities runs with."""
        return ModuleChanges(self.processors, self.settings)


class ModuleState:
    """Applies and removes the changes of tasks on the watched modules."""

    def __init__(self) -> None:
        self._attention: dict[int, Any] = {}  # attention modules by id
        self._hooks: dict[int, dict[int, Any]] = {}  # every module's dicts of hooks, by id of the dict
        self._settings: list[tuple[Any, str]] = []  # attributes of denoisers and their configs
        # By component: attributes (module's `__dict__`, name) that forwards of language models may set.
        self._cacheable: dict[str, list[tuple[dict[str, Any], str]]] = {}
        self._components: dict[int, set[str]] = {}  # whose forwards a module, a dict of hooks or a config is for, by id

    def watch(self, component: str, owner: nn.Module) -> None:
        cacheable = self._cacheable.setdefault(component, [])
        if hasattr(owner, "_load_ip_adapter_weights"):
            self._settings += [(owner, name) for name in OF_IP_ADAPTERS] + [(owner.config, IN_CONFIG)]
            self._belongs(owner.config, component)
        for module in owner.modules():
            self._belongs(module, component)
            for hooks in (module._forward_hooks, module._forward_pre_hooks):
                self._hooks[id(hooks)] = hooks
                self._belongs(hooks, component)
            if hasattr(module, "set_processor"):
                self._attention[id(module)] = module
            if isinstance(owner, GenerationMixin):
                cacheable += [(vars(module), name) for name, value in vars(module).items() if value is None]

    def forget(self, owner: nn.Module) -> None:
        """Watch the modules of `owner` no more: it leaves the device."""
        gone = {id(module) for module in owner.modules()}
        gone |= {
            id(hooks) for module in owner.modules() for hooks in (module._forward_hooks, module._forward_pre_hooks)
        }
        for found in (self._attention, self._hooks, self._components):
            for key in gone & found.keys():
                del found[key]

    def _belongs(self, changed: object, component: str) -> None:
        self._components.setdefault(id(changed), set()).add(component)

    @contextmanager
    def applied(self, changes: ModuleChanges, component: str) -> Iterator[None]:
        """Around a forward of `component`: within this context the modules have the task's changes."""
        before = [(module, module.processor) for module, _ in changes.processors]
        settings = [(owner, name, getattr(owner, name, ABSENT)) for owner, name, _ in changes.settings]
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
            _set(settings)
            for hooks, hook_id, _ in changes.hooks:
                hooks.pop(hook_id, None)

    @contextmanager
    def recorded(self, changes: ModuleChanges) -> Iterator[None]:
        """Around a task's own code: what it changes goes into `changes`, and afterwards the modules are as before."""
        before = [(module, module.processor) for module in self._attention.values()]
        settings = [(owner, name, getattr(owner, name, ABSENT)) for owner, name in self._settings]
        next_hook_id = RemovableHandle.next_id
        self._apply(changes)
        try:
            yield
        finally:
            changes.hooks = self._take_off_hooks(changes.hooks, next_hook_id)
            changed = [(module, was) for module, was in before if module.processor is not was]
            changes.processors = [(module, module.processor) for module, _ in changed]
            for module, was in changed:
                module.set_processor(was)
            changed_settings = [each for each in settings if getattr(each[0], each[1], ABSENT) is not each[2]]
            changes.settings = [(owner, name, getattr(owner, name, ABSENT)) for owner, name, _ in changed_settings]
            _set(changed_settings)
            self._identify(changes)

    def _apply(self, changes: ModuleChanges) -> None:
        for module, processor in changes.processors:
            module.set_processor(processor)
        _set(changes.settings)
        for hooks, hook_id, hook in changes.hooks:
            hooks[hook_id] = hook

    def _identify(self, changes: ModuleChanges) -> None:
        found: dict[str, list[Hashable]] = {}
        for changed, *what in (*changes.processors, *changes.settings):
            for component in self._components.get(id(changed), ()):
                found.setdefault(component, []).append((id(changed), *map(id, what)))
        changes.identities = {component: tuple(what) for component, what in found.items()}
        changes.hooked = {name for hooks, _, _ in changes.hooks for name in self._components.get(id(hooks), ())}

    def _take_off_hooks(self, old: list[Hook], next_hook_id: int) -> list[Hook]:
        """Remove and return those of `old` that are still on their modules and all hooks from `next_hook_id` on.

        Hooks that transformers itself installs stay: it installs them once for the life of the model.
        """
        found = [(hooks, hook_id) for hooks, hook_id, _ in old if hook_id in hooks]
        if RemovableHandle.next_id != next_hook_id:
            new = [(hooks, hook_id) for hooks in self._hooks.values() for hook_id in hooks if hook_id >= next_hook_id]
            found += [(hooks, hook_id) for hooks, hook_id in new if not _belongs_to_transformers(hooks[hook_id])]
        return [(hooks, hook_id, hooks.pop(hook_id)) for hooks, hook_id in found]


def _set(settings: list[Setting]) -> None:
    for owner, name, value in settings:
        if value is not ABSENT:
            setattr(owner, name, value)
        elif hasattr(owner, name):
            delattr(owner, name)


def _belongs_to_transformers(hook: Any) -> bool:
    return str(getattr(hook, "__module__", "")).startswith("transformers.")
