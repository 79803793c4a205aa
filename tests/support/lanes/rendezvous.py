"""Makes rendezvous, and runs their tasks to their ends."""

from __future__ import annotations

from typing import Any

from pipelines.batching.rendezvous import Rendezvous
from pipelines.batching.task import Outcome, Task
from pipelines.batching.wrapped_modules import WrappedModules


def rendezvous_at(module: Any, entry: str = "forward", *, every_layer: bool = False, **options: Any) -> Rendezvous:
    """At one entry point of one component. options: of `Rendezvous`."""
    modules = WrappedModules(every_layer=every_layer)
    modules.wrap("net", module, entry)
    return Rendezvous(modules, **options)


def finish(rendezvous: Rendezvous, tasks: list[Task]) -> dict[str, Outcome]:
    """Start the tasks that have not started, and step until all have ended."""
    fresh = [task for task in tasks if task.pending_call is None]
    outcomes = [outcome for outcome in map(rendezvous.start, fresh) if outcome is not None]
    while rendezvous.busy:
        outcomes += rendezvous.step()[1]
    assert sorted(outcome.task.name for outcome in outcomes) == sorted(task.name for task in tasks)
    return {outcome.task.name: outcome for outcome in outcomes}
