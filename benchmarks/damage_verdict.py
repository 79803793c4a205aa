"""Judges one damaged checkpoint: what became of it in the server, compared with the library and the sound one."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from benchmarks.damage_copy import CHECKPOINT, Copy, Edit
from benchmarks.damage_families import SOUND, Sound
from benchmarks.damage_nowhere import from_nowhere, unread
from benchmarks.damage_sides import Broken, Opened, Outcome, Refused, by_library, by_server

SAME_VALUES = 1e-3  # of [0, 1]; rounding differs between the two sides
TRIES = 200  # draws of an edit until one fits the checkpoint
FAILURES = ("from nowhere", "different", "served alone", "crash", "leak", "hang", "died", "tool")
BROKEN = re.compile(r"weights are broken|not numbers|single color")  # the trial cannot know which tensor it was
VAGUE = re.compile(r"its files do not fit its pipeline|refused the arguments|trial failed|failed on this job|^$")
# A reason names a file, component, tensor or key: a word with an underscore, dot, slash or hyphen inside, something in
# quotes, or one of the parts of a model.
PARTS = ("unet", "vae", "transformer", "text encoder", "tokenizer", "scheduler", "language model", "chat template",
         "pipeline class", "the weights", "tensors")  # fmt: skip
NAMED = re.compile(rf"\w[._/-]\w|'[^']+'|\b({'|'.join(PARTS)})\b")


@dataclass(frozen=True, slots=True)
class Row:
    case: int
    family: str
    part: str  # header, index, tensor, config, tokenizer
    edit: str
    what: str
    verdict: str
    message: str = ""
    library: str = ""
    seconds: float = 0.0

    @property
    def failed(self) -> bool:
        return self.verdict in FAILURES


@dataclass(frozen=True, slots=True)
class Case:
    number: int
    sound: str
    part: str
    edit: str | None  # None: any of that part


def damage(case: Case, seed: int, sound_dir: Path, data_dir: Path) -> tuple[Sound, str, str]:
    """Makes the damaged copy. Returns its family, the name of the edit, and what was changed."""
    sound = next(each for each in SOUND if each.name == case.sound)
    copy = Copy.of(sound_dir / CHECKPOINT, data_dir / CHECKPOINT, Random(f"{seed}-{case.number}"))
    edits: tuple[Edit, ...] = sound.edits()[case.part]
    for _ in range(TRIES):
        edit = copy.choose.choice([each for each in edits if case.edit in (None, each.__name__)])
        if (what := edit(copy)) is not None:
            return sound, edit.__name__, what
    raise ValueError(f"nothing in {case.sound} for {case}")


@dataclass(frozen=True, slots=True)
class Reference:
    result: Any
    from_nowhere: frozenset[str]  # parameters that are computed when the sound one is loaded


@cache
def reference_of(sound: Sound, sound_dir: Path) -> Reference:
    """Raises ValueError unless the sound checkpoint is served equal to the library's: nothing would be shown then."""
    ours, theirs = by_server(sound, sound_dir), by_library(sound, sound_dir)
    if not isinstance(ours, Opened) or not isinstance(theirs, Opened) or not _same(ours.result, theirs.result):
        raise ValueError(f"the sound {sound.name} is not served: {ours}, {theirs}")
    return Reference(ours.result, frozenset(from_nowhere(ours.modules, _weights(sound_dir))))


def judge(sound: Sound, sound_dir: Path, data_dir: Path) -> tuple[str, str, str]:
    """Returns the verdict, the reason of the server, and what the library did."""
    reference = reference_of(sound, sound_dir)
    ours = by_server(sound, data_dir)
    if isinstance(ours, Broken):
        return "crash", ours.what, ""
    library = by_library(sound, data_dir)
    told = _told(library)
    if isinstance(ours, Refused):
        return refused(ours, library, reference, data_dir), f"{ours.message} [{ours.detail[:200]}]", told
    files = _weights(data_dir)
    if strange := _new(from_nowhere(ours.modules, files), reference.from_nowhere):
        return "from nowhere", ", ".join(strange)[:400], told
    told_of = [f"job: {ours.result.message}"] if isinstance(ours.result, Refused) else []
    told_of += [*ours.notes, *(f"unread {name}" for name in unread(ours.modules, files))]
    return _served(ours.result, library, reference.result), "; ".join(told_of)[:400], told


def _told(library: Outcome) -> str:
    match library:
        case Refused(message=message):
            return message[:300]
        case Opened(result=Refused(message=message)):
            return f"fails to run: {message[:300]}"
        case _:
            return "serves it"


def refused(ours: Refused, library: Outcome, reference: Reference, data_dir: Path) -> str:
    if str(data_dir) in ours.message or "Traceback" in ours.message:
        return "leak"
    if ours.message == "out of memory":
        return ours.message
    if isinstance(library, Opened) and _is_sound_result(library.result):
        files = _weights(data_dir)
        if not _new(from_nowhere(library.modules, files), reference.from_nowhere) and not unread(
            library.modules, files
        ):
            return "too strict" if _same(library.result, reference.result) else "refused, library serves"
    clear = BROKEN.search(ours.message) or (NAMED.search(ours.message) and not VAGUE.search(ours.message))
    return "refused" if clear else "refused vaguely"


def _served(ours: Any, library: Outcome, reference: Any) -> str:
    theirs = library.result if isinstance(library, Opened) else None
    if isinstance(ours, Refused):
        explained = theirs is None or isinstance(theirs, Refused) or BROKEN.search(ours.message)
        return "job fails" if explained else "different"
    if theirs is None or isinstance(theirs, Refused):
        return "as the sound one" if _same(ours, reference) else "served alone"
    return "equal" if _same(ours, theirs) else "different"


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, str) or isinstance(other, str):
        return bool(isinstance(one, str) and isinstance(other, str) and one == other)
    return one.shape == other.shape and bool(np.allclose(one, other, rtol=0, atol=SAME_VALUES, equal_nan=True))


def _is_sound_result(result: Any) -> bool:
    if isinstance(result, Refused):
        return False
    return isinstance(result, str) or bool(np.isfinite(result).all() and result.max() > result.min())


def _weights(data_dir: Path) -> list[Path]:
    return [path for path in data_dir.rglob("*") if path.suffix in (".safetensors", ".gguf") and path.is_file()]


def _new(found: list[str], usual: frozenset[str]) -> list[str]:
    return [name for name in found if name not in usual]
