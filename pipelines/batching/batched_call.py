"""Runs calls that can share one forward: proved before merging is trusted, in narrower parts when memory is short.

Device thread only. The ladder of a forward that runs out of memory: halves, single calls, the single call once more
with all cached memory given back, a VAE decode in tiles; then that call alone fails. Each retry happens outside the
`except` block, so that the failed frames have let go of their tensors.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections import Counter
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

from pipelines import device
from pipelines.batching.merging import Call, Form, Structure, Unmergeable, bucket, generators_of, run_merged
from pipelines.batching.proof import agree
from pipelines.interface import Merging

RETRY_AFTER = 100  # forwards of a shape until a width that ran out of memory is tried again: others may have left


@dataclass(frozen=True, slots=True)
class Result:
    """What one parked call gave, and in how wide a forward."""

    output: Any = None
    error: BaseException | None = None
    width: int = 1


class BatchedCalls:
    """What has been learned about merging a model's calls, and the running of them."""

    def __init__(self, *, max_calls: int, merging: Merging, verdicts: Mapping[str, bool], salt: str) -> None:
        """verdicts: of an earlier `verdicts`, of the same checkpoint. salt: what else a verdict is only good for."""
        self._max_calls = max_calls
        self._never = merging == "off"
        self._salt = salt
        self._verdicts = dict(verdicts)  # name of a call structure → proved to merge
        self._names: dict[Structure, str] = {}
        self._seen: Counter[str] = Counter()  # name → groups that could have merged
        self._met: Counter[str] = Counter()  # "component.entry" → times several calls of it waited, alike or not
        self._too_wide: dict[
            Hashable, tuple[int, int]
        ] = {}  # call shape → narrowest width out of memory, forwards left
        self.refused: list[int] = []  # widths that ran out of memory in the last `run`
        self.proving = False  # the last `run` was a proof

    @property
    def merging(self) -> Merging:
        """The verdict on the calls there are most of: those made at every step."""
        if self._never:
            return "off"
        most = max(self._met, key=lambda place: self._met[place], default=next(iter(self._verdicts), "").split(" ")[0])
        names = [name for name in self._verdicts if name.split(" ")[0] == most]
        if not names:
            return "unproven"
        return "on" if self._verdicts[max(names, key=lambda name: self._seen[name])] else "off"

    @property
    def verdicts(self) -> dict[str, bool]:
        """ "component.entry digest" → merges, the structures met most first. Good for the constructor of the next one."""
        return {name: self._verdicts[name] for name in sorted(self._verdicts, key=lambda name: -self._seen[name])}

    @property
    def enabled(self) -> bool:
        """False as long as looking for others to merge with is of no use."""
        return not self._never

    def meet(self, call: Call) -> None:
        """Others wait at the same place as `call`."""
        self._met[f"{call.component}.{call.entry}"] += 1

    def width(self, form: Form, count: int, most: int | None) -> tuple[int, int]:
        """How many of `count` calls of this form to run together, and the width to run them at."""
        if count > 1:
            self._seen[self._name(form.structure)] += 1  # also where it never merges: it is what the calls mostly are
        if count < 2 or not self._verdicts.get(self._name(form.structure), True):
            return 1, 1
        narrowest, _ = self._too_wide.get(form.shape, (2 * self._max_calls, 0))
        return bucket(count, max(1, min(self._max_calls, most or self._max_calls, narrowest // 2)))

    def run(self, calls: list[Call], form: Form | None, width: int) -> list[Result]:
        """One result per call."""
        self.refused, self.proving = [], False
        calls[0].ambient.restore()
        if form is not None and len(calls) > 1:
            self._wait_out(form)
            return self._run(calls, form, width)
        return [self._run_alone(calls[0])]

    def _run(self, calls: list[Call], form: Form, width: int) -> list[Result]:
        if len(calls) == 1:
            return [self._run_alone(calls[0])]
        name = self._name(form.structure)
        if name not in self._verdicts:
            return self._prove(calls, form, width)
        try:
            return [Result(output, width=width) for output in run_merged(calls, width)]
        except Unmergeable:
            self._verdicts[name] = False
        except Exception as error:  # stock code may raise anything; each call gets its own below
            if device.is_fatal(error):
                raise
            if device.is_out_of_memory(error):
                self._note_too_wide(form, width)
        # Outside the except block: the failed frames have let go of their tensors.
        device.release_cache()
        half = width // 2
        parts = [part for part in (calls[:half], calls[half:]) if part]
        return [result for part in parts for result in self._run(part, form, _power_of_two(len(part)))]

    def _prove(self, calls: list[Call], form: Form, width: int) -> list[Result]:
        """Run the calls alone, and merged to compare; the structure is merged from now on if they agree."""
        self.proving = True
        states = _generator_states(calls)
        results = [self._run_alone(call) for call in calls]
        if any(result.error is not None for result in results):
            return results  # nothing learned
        try:
            drew = states != _generator_states(calls)
            merges = not drew and agree(calls, [r.output for r in results], width)
            self._verdicts[self._name(form.structure)] = merges
        except Exception as error:
            if not device.is_out_of_memory(error):
                raise
            self._note_too_wide(form, width)  # no verdict: proved again, narrower
        return results

    def _run_alone(self, call: Call) -> Result:
        result = _attempt(call)
        if isinstance(result.error, NotImplementedError):
            return _run_tiled(call, result.error)
        if result.error is None or not device.is_out_of_memory(result.error):
            return result
        self.refused.append(1)
        device.release_cache()
        result = _attempt(call)
        if result.error is None or not device.is_out_of_memory(result.error):
            return result
        device.release_cache()
        return _run_tiled(call, result.error)

    def _note_too_wide(self, form: Form, width: int) -> None:
        self.refused.append(width)
        self._too_wide[form.shape] = (width, RETRY_AFTER)

    def _wait_out(self, form: Form) -> None:
        width, left = self._too_wide.pop(form.shape, (0, 0))
        if left > 1:
            self._too_wide[form.shape] = (width, left - 1)

    def _name(self, structure: Structure) -> str:
        """What a structure is called in a store: the same in every process."""
        name = self._names.get(structure)
        if name is None:
            digest = hashlib.blake2b(repr((self._salt, structure)).encode(), digest_size=8).hexdigest()
            name = self._names[structure] = f"{structure[0]}.{structure[1]} {digest}"
        return name


def _attempt(call: Call) -> Result:
    try:
        return Result(call.run())
    except Exception as error:  # handed to the task that made the call
        if device.is_fatal(error):
            raise
        return Result(error=error.with_traceback(None) if device.is_out_of_memory(error) else error)


def _run_tiled(call: Call, failure: BaseException) -> Result:
    """The last resort for one call: a VAE decode in tiles. Allegro's can do no other."""
    vae: Any = getattr(call.function, "__self__", None)
    if call.entry != "decode" or not hasattr(vae, "enable_tiling"):
        return Result(error=failure)
    try:
        vae.enable_tiling()
        result = _attempt(call)
    except Exception as error:  # not every VAE that has the method can
        if device.is_fatal(error):
            raise
        return Result(error=failure)
    finally:
        with contextlib.suppress(NotImplementedError):
            vae.disable_tiling()
    return result if result.error is None or device.is_out_of_memory(result.error) else Result(error=failure)


def _generator_states(calls: list[Call]) -> list[bytes]:
    return [bytes(generator.get_state().numpy()) for call in calls for generator in generators_of(call)]


def _power_of_two(count: int) -> int:
    return 1 << (count - 1).bit_length()
