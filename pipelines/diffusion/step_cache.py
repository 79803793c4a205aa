"""Skips denoising steps of one job: predicts what the denoiser would return from what it returned in steps before.

A denoiser's output changes smoothly from step to step. In a step that is not computed (`pipelines/step_schedule.py`)
the job gets the last computed output plus its trend, and no forward runs. How far the trend is followed, from 0 (the
last output again) to 1 (a straight line), is fitted at each computed step: the factor that would have predicted it
best. So a noise scheduler that adds noise of its own, or guidance that jumps, lowers the factor by itself.

The outputs belong to the job and are kept on its own side of the call: modules carry no hooks, a job beside notices
nothing, computed steps merge as always, and whatever ends the job frees them. Each call that a job makes within a step
(with and without the prompt, or of two denoisers) is a branch of its own. Device thread only.

Caches inside the denoiser (diffusers' `enable_cache`) were measured beside this and lost; docs/speeds.md has
the figures.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch.utils import _pytree as pytree

from pipelines.step_schedule import Speed, is_computed

MIN_OUTPUTS = 3  # in steps on end, before a branch predicts: two make a trend, the third fits how far it holds
Branch: TypeAlias = tuple[Hashable, ...]  # component, ordinal of the call within the step, sizes of its arguments


@dataclass(frozen=True, slots=True)
class Output:
    """What the denoiser returned in one computed step."""

    step: int
    leaves: list[Any]
    spec: pytree.TreeSpec


@dataclass(slots=True)
class History:
    """The last outputs of one branch."""

    last_step: int  # of its last call, computed or predicted
    outputs: list[Output]  # the last two computed ones
    n_outputs: int  # computed since the branch began
    trust: list[torch.Tensor | None]  # for each leaf, how far its trend is followed: 0-d, on the device

    @property
    def can_predict(self) -> bool:
        return self.n_outputs >= MIN_OUTPUTS and any(trust is not None for trust in self.trust)


class StepCache:
    """The outputs of one job's denoisers. `at_step` follows its progress bar, `call` wraps its calls."""

    def __init__(self, speed: Speed) -> None:
        self.speed = speed
        self.n_predicted = 0  # calls that were not computed
        self._step, self._total = 0, 0
        self._calls: Counter[str] = Counter()  # of each component in this step
        self._histories: dict[Branch, History] = {}

    def at_step(self, done: int, total: int) -> None:
        """The job has done `done` of `total` steps; at 0 a loop begins. total: 0 when it is not known."""
        if done == 0:
            self._histories.clear()
        self._step, self._total = done, total
        self._calls.clear()
        if done >= total:
            self._histories.clear()  # the loop is over, and what it left is not needed while the VAE decodes

    def call(self, component: str, arguments: Sequence[Any], compute: Callable[[], Any]) -> Any:
        """Returns what `compute` returns, a forward of `component` with these arguments, or a prediction of it."""
        if self._step >= self._total or not _takes_latents(arguments):
            return compute()
        branch: Branch = (component, self._calls[component], _sizes(arguments))
        self._calls[component] += 1
        step = self._step
        history = self._histories.get(branch)
        if history is not None and history.last_step != step - 1:
            history = None  # the branch paused, so its outputs no longer tell a trend
        if history is not None and history.can_predict and not is_computed(self.speed, step, self._total):
            history.last_step = step
            self.n_predicted += 1
            return _predict(history, step)
        returned = compute()
        self._histories[branch] = _extended(history, step, returned)
        return returned


def _extended(history: History | None, step: int, returned: Any) -> History:
    leaves, spec = pytree.tree_flatten(returned)
    # Copies, because stock code may write to what it was handed.
    now = Output(step, [leaf.clone() if _is_predictable(leaf) else leaf for leaf in leaves], spec)
    if history is None or history.outputs[-1].spec != spec:
        return History(step, [now], 1, [None] * len(leaves))
    trust: list[torch.Tensor | None] = [None] * len(leaves)
    if len(history.outputs) == 2:
        trust = _fit(history.outputs, now)
    return History(step, [*history.outputs[-1:], now], history.n_outputs + 1, trust)


def _fit(before: list[Output], now: Output) -> list[torch.Tensor | None]:
    """For each leaf the factor, within 0 and 1, by which the trend of the two outputs before best predicts this one.

    The result stays on the device, so that nothing waits for it.
    """
    first, last = before
    ahead = (now.step - last.step) / (last.step - first.step)
    return [
        _fitted(*leaves, ahead) if all(map(_is_predictable, leaves)) else None
        for leaves in zip(first.leaves, last.leaves, now.leaves, strict=True)
    ]


def _fitted(first: torch.Tensor, last: torch.Tensor, now: torch.Tensor, ahead: float) -> torch.Tensor | None:
    if not first.shape == last.shape == now.shape:
        return None
    trend = (last.float() - first.float()) * ahead
    tiny = torch.finfo(torch.float32).tiny  # outputs that do not change have no trend, and any factor predicts them
    return ((now.float() - last.float()) * trend).sum().div((trend * trend).sum().clamp_min(tiny)).clamp(0, 1)


def _predict(history: History, step: int) -> Any:
    first, last = history.outputs
    ahead = (step - last.step) / (last.step - first.step)
    triples = zip(first.leaves, last.leaves, history.trust, strict=True)
    leaves = [_followed(one, two, trust, ahead) if _is_predictable(two) else two for one, two, trust in triples]
    return pytree.tree_unflatten(leaves, last.spec)


def _followed(first: torch.Tensor, last: torch.Tensor, trust: torch.Tensor | None, ahead: float) -> torch.Tensor:
    if trust is None:
        return last.clone()
    return torch.lerp(first.float(), last.float(), 1 + trust * ahead).to(last.dtype)


def _is_predictable(leaf: Any) -> bool:
    return isinstance(leaf, torch.Tensor) and leaf.is_floating_point()


def _takes_latents(arguments: Sequence[Any]) -> bool:
    """Whether the first large tensor holds numbers: what a model makes of tokens is no smooth function of the step."""
    first = next((tensor for tensor in _tensors(arguments) if tensor.ndim >= 3), None)
    return first is not None and first.is_floating_point()


def _sizes(arguments: Sequence[Any]) -> tuple[torch.Size, ...]:
    return tuple(tensor.shape for tensor in _tensors(arguments))


def _tensors(arguments: Sequence[Any]) -> Iterator[torch.Tensor]:
    return (leaf for leaf in pytree.tree_leaves(arguments) if isinstance(leaf, torch.Tensor))
