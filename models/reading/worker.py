"""The process that reads checkpoints: one after another, with bounded memory and time. No torch.

Run as: python -m models.reading.worker CACHE_DIR AUTO_DTYPE
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from models.check import check_local
from models.errors import BadConfig
from models.files.safety import check_path
from models.fingerprint import stamp, state_of
from models.isolation.serving import serve
from models.reading.codec import decode, encode
from models.reading.outcome import Outcome
from models.reading.read_model import ModelReading
from pipelines.fault_points import reach

MAX_BYTES = 1 << 30  # of memory: the longest header that is allowed, parsed
CPU_S = 10.0  # for one model; an ordinary one takes 10 ms, one with a large vocabulary a second
WALL_S = 60.0  # a disk may be slow
MAX_WATCHED = 100_000  # entries of one models folder whose changes are noticed


class _Worker:
    def __init__(self, reading: ModelReading) -> None:
        self._reading = reading

    def answer(self, question: Any) -> object:
        match question:
            case {"do": "found", "path": path, "known": known}:
                return self._found(Path(path), known)
            case {"do": "declared", "task": task}:
                entry, spec, toml_dir, origin = decode(task)
                reach("read", entry.name)
                try:
                    return {"outcome": encode(self._reading.declared(entry, spec, toml_dir, origin))}
                except BadConfig as error:
                    return {"bad_config": error.message}
            case {"do": "stamp", "path": path}:
                return _stamps([Path(path)])
            case {"do": "state", "places": places}:
                return [_state(Path(place)) for place in places]
            case {"do": "check", "task": task}:
                path, report = decode(task)
                reach("read", str(path))
                return encode(check_local(path, report, self._reading.auto_dtype, self._reading.cache_dir))
        raise ValueError("an unknown question")

    def _found(self, path: Path, known: dict[str, str] | None) -> object:
        if known is not None and _stamps(map(Path, known)) == known:
            return {"same": True}
        before = _stamps([path])
        reach("read", str(path))
        outcome = self._reading.found(path)
        stamps = None if before is None or not _may_keep(path, outcome) else _stamps(_places(path, outcome))
        unchanged = stamps is not None and before is not None and stamps[str(path)] == before[str(path)]
        return {"outcome": encode(outcome), "stamps": stamps if unchanged else None}


def _may_keep(path: Path, outcome: Outcome) -> bool:
    """Whether nothing but its own files decides: a single file may be refused for lack of a base, which may come."""
    if not outcome.is_file or outcome.refusal is None:
        return outcome.is_model
    try:
        check_path(path)
    except Exception:  # noqa: BLE001  # it is refused for its header
        return True
    return False


def _places(path: Path, outcome: Outcome) -> Iterable[Path]:
    base = None if outcome.spec is None else outcome.spec.base_path
    return (path,) if base is None else (path, base)


def _stamps(places: Iterable[Path]) -> dict[str, str] | None:
    """Returns place → stamp, None when one of them cannot be read whole."""
    try:
        return {str(place): stamp(place) for place in places}
    except Exception:  # noqa: BLE001  # whatever is wrong with it, its reading tells
        return None


def _state(place: Path) -> str:
    try:
        return state_of(place, MAX_WATCHED)
    except OSError:  # does not exist, or is just being removed: the next look tells
        return "-"


def main() -> None:
    cache_dir, auto_dtype = sys.argv[1:]
    assert auto_dtype in ("float32", "bfloat16")
    worker = _Worker(ModelReading(Path(cache_dir), auto_dtype))  # type: ignore[arg-type]  # checked above
    serve(worker.answer, memory_bytes=MAX_BYTES, cpu_s=CPU_S, wall_s=WALL_S)


if __name__ == "__main__":
    main()
