"""Gives each request its own copy of the pipeline: shared modules, private state. Device thread only.

Stock pipelines keep state of a call on themselves and on their schedulers (`set_timesteps` rewrites the shared noise
schedule; guiders keep their momentum from call to call), so two calls at once would spoil each other. A request
therefore runs on a shallow copy that shares every module and has its own copy of everything stateful that is not a
module, in nested pipelines too.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import Any

import torch
from diffusers import DiffusionPipeline
from diffusers.configuration_utils import ConfigMixin

from pipelines.batching.wrapped_modules import entries_of


def request_copy(pipeline: Any, progress: Callable[[int], StepCounter], device: torch.device | None = None) -> Any:
    """A copy of `pipeline` for one call. progress: makes the call's progress bar from its number of steps.

    device: where the pipeline computes. None leaves it to the pipeline's own guess, the device of its first module.
    """
    own = copy.copy(pipeline)
    if device is not None:
        own.__class__ = _on_device(type(pipeline), device)  # type: ignore[arg-type]  # a class is hashable
    for name, value in vars(pipeline).items():
        if isinstance(value, DiffusionPipeline):
            own.__dict__[name] = request_copy(value, progress, device)
        elif isinstance(value, ConfigMixin) and not isinstance(value, torch.nn.Module):
            own.__dict__[name] = copy.deepcopy(value)
    own.__dict__["progress_bar"] = lambda iterable=None, total=None: progress(total or 0).over(iterable)
    return own


@functools.lru_cache(maxsize=64)
def _on_device(cls: type, device: torch.device) -> type:
    """A subclass of `cls` that computes on `device`, even while its first module, a text encoder, is parked."""
    fixed = property(lambda self: device)
    return type(cls.__name__, (cls,), {"device": fixed, "_execution_device": fixed})


def make_scheduler(name: str, default: Any) -> Any:
    """The noise scheduler of class `name` of diffusers, with the configuration of the checkpoint's own, `default`."""
    import diffusers

    return getattr(diffusers, name).from_config(default.config)


def disable_kv_cache(pipeline: Any) -> None:
    """Configure language models that encode prompts to return no KV cache: it is not used, and cannot be split by rows.

    Pipelines in which a language model writes (`generate`) request the cache explicitly, so they still have it.
    """
    for _, module, _ in entry_points(pipeline):
        if hasattr(getattr(module, "config", None), "get_text_config"):
            module.config.get_text_config().use_cache = False


def entry_points(pipeline: Any) -> Iterator[tuple[str, Any, str]]:
    """(component name, module, entry point) of each module in the pipeline that costs device time. A VAE has two."""
    seen: set[int] = set()
    for name, value in vars(pipeline).items():
        if isinstance(value, DiffusionPipeline):
            found: Iterable[tuple[str, Any, str]] = entry_points(value)
        elif isinstance(value, torch.nn.Module):
            found = ((name, value, entry) for entry in entries_of(value))
        else:
            continue
        fresh = [item for item in found if id(item[1]) not in seen]
        seen.update(id(module) for _, module, _ in fresh)
        yield from fresh


class StepCounter:
    """Replaces the pipeline's tqdm progress bar: counts `update()` calls, one per denoising step."""

    def __init__(self, total: int, on_step: Callable[[int, int], None]) -> None:
        self.total = total
        self.done = 0
        self._on_step = on_step
        self._iterable: Iterable[Any] = ()

    def over(self, iterable: Iterable[Any] | None) -> StepCounter:
        if iterable is not None:
            self._iterable = iterable
            self.total = len(iterable) if isinstance(iterable, Sized) else self.total
        self._on_step(self.done, self.total)
        return self

    def update(self, n: int = 1) -> None:
        self.done += n
        self._on_step(self.done, self.total)

    def set_postfix(self, *_: Any, **__: Any) -> None:
        pass

    def set_description(self, *_: Any, **__: Any) -> None:
        pass

    def close(self) -> None:
        pass

    def __iter__(self) -> Iterator[Any]:
        for item in self._iterable:
            yield item
            self.update()

    def __enter__(self) -> StepCounter:
        return self

    def __exit__(self, *_: Any) -> None:
        pass
