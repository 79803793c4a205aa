"""A pipeline of one's own for each request: shared modules, private state. Device thread only.

Stock pipelines keep per-call state on themselves and on their schedulers (`set_timesteps` rewrites the shared noise
schedule; guiders remember momentum from call to call), so two calls at once spoil each other. A request therefore runs
on a shallow copy that shares every module and owns everything stateful that is not one, in nested pipelines too.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import Any

import torch
from diffusers import DiffusionPipeline
from diffusers.configuration_utils import ConfigMixin

from pipelines.batching.rendezvous import VAE_ENTRIES


def scoped(pipeline: Any, progress: Callable[[int], StepCounter], place: torch.device | None = None) -> Any:
    """A copy of `pipeline` for one call; `progress(total)` is asked for its progress bar.

    place: where it is to compute, told to it where its own guess (the place of its first module) may be wrong.
    """
    own = copy.copy(pipeline)
    if place is not None:
        own.__class__ = _placed(type(pipeline), place)  # type: ignore[arg-type]  # a class is hashable
    for name, value in vars(pipeline).items():
        if isinstance(value, DiffusionPipeline):
            own.__dict__[name] = scoped(value, progress, place)
        elif isinstance(value, ConfigMixin) and not isinstance(value, torch.nn.Module):
            own.__dict__[name] = copy.deepcopy(value)
    own.__dict__["progress_bar"] = lambda iterable=None, total=None: progress(total or 0).over(iterable)
    return own


@functools.lru_cache(maxsize=64)
def _placed(cls: type, place: torch.device) -> type:
    """`cls`, computing on `place` wherever its modules are: a parked text encoder says nothing of where to make the noise."""
    here = property(lambda self: place)
    return type(cls.__name__, (cls,), {"device": here, "_execution_device": here})


def scheduler_of(name: str, usual: Any) -> Any:
    """The noise scheduler class `name` of diffusers, with what the checkpoint says of its own: `usual`."""
    import diffusers

    return getattr(diffusers, name).from_config(usual.config)


def keep_no_cache(pipeline: Any) -> None:
    """Tell the language models that encode prompts to keep no KV cache: nobody reads it, and a cache cannot be split by rows.

    Where a pipeline lets one write (`generate`), the cache is asked for by name and so is there.
    """
    for _, module, _ in entry_points(pipeline):
        if hasattr(getattr(module, "config", None), "get_text_config"):
            module.config.get_text_config().use_cache = False


def entry_points(pipeline: Any) -> Iterator[tuple[str, Any, str]]:
    """(component name, module, entry point) of everything in the pipeline that costs device time, each module once."""
    seen: set[int] = set()
    for name, value in vars(pipeline).items():
        if isinstance(value, DiffusionPipeline):
            found: Iterable[tuple[str, Any, str]] = entry_points(value)
        elif isinstance(value, torch.nn.Module):
            entries = VAE_ENTRIES if hasattr(value, "decode") and hasattr(value, "encode") else ("forward",)
            found = ((name, value, entry) for entry in entries)
        else:
            continue
        fresh = [item for item in found if id(item[1]) not in seen]
        seen.update(id(module) for _, module, _ in fresh)
        yield from fresh


class StepCounter:
    """Stands where the pipeline's tqdm bar would: counts `update()` calls, one per denoising step."""

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
