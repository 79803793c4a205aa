"""Results of the comparison: a row per class and architecture, saved line by line, and the tables made of the rows."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.families import FAMILIES, PICTURE_FAMILIES, Family
from benchmarks.families.unserved import REASONS, left_out_with_pictures

MARK = "<!-- {} of generated table -->"


@dataclass(frozen=True, slots=True)
class Row:
    name: str
    kind: str  # image, video, chat
    equal: bool
    shared: bool  # jobs share forwards, or chats use continuous batching
    note: str = ""
    levels: int | None = None  # largest difference of a pixel, of 255; None for chats and failed jobs

    @property
    def is_chat(self) -> bool:
        return self.kind == "chat"

    def __str__(self) -> str:
        gap = "" if self.levels is None else f", {self.levels}/255"
        equal, shared = "equal" if self.equal else "DIFFERS", "shared" if self.shared else "in turns"
        return f"{self.name:40} {equal}{gap}, {shared} {self.note}"


class Rows:
    """Rows in the order in which they were found. Each is saved at once, so that an interrupted run can continue."""

    def __init__(self, file: Path | None = None) -> None:
        self._file = file
        lines = file.read_text().splitlines() if file is not None and file.exists() else []
        self._found = {row.name: row for row in (Row(**json.loads(line)) for line in lines)}

    def __iter__(self) -> Iterator[Row]:
        return iter(self._found.values())

    def __contains__(self, name: str) -> bool:
        return name in self._found

    def add(self, row: Row) -> None:
        self._found[row.name] = row
        print(row, flush=True)
        if self._file is not None:
            with self._file.open("a") as lines:
                lines.write(json.dumps(asdict(row)) + "\n")


def write_tables(document: Path, rows: Iterable[Row], *, pictures: bool = False) -> None:
    """Writes each table between its marks, or to the end of a document that has no marks yet.

    pictures: the rows are of classes that are given pictures or clips.
    """
    rows = list(rows)
    tables = {"pictures": _picture_table(rows)} if pictures else {
        "pipelines": _pipeline_table([row for row in rows if not row.is_chat]),
        "chat": _chat_table([row for row in rows if row.is_chat]),
    }  # fmt: skip
    text = document.read_text() if document.exists() else "# Models\n"
    for name, lines in tables.items():
        start, end = MARK.format(f"start of {name}"), MARK.format(f"end of {name}")
        body = "\n".join([start, "", *lines, "", end])
        if start in text:
            before, rest = text.split(start, 1)
            text = before + body + rest.split(end, 1)[1]
        else:
            text = f"{text.rstrip()}\n\n{body}\n"
    document.write_text(text)


def _pipeline_table(rows: list[Row]) -> list[str]:
    lines = [
        _summary(rows, "pipeline classes give"),
        "",
        "| pipeline class | makes | same as diffusers | jobs share forwards | |",
        "|---|---|---|---|---|",
    ]
    for row in sorted(rows, key=lambda row: row.name):
        cells = row.name, row.kind, _yes(row.equal), _forwards(row), _note(row, FAMILIES[row.name])
        lines.append(f"| {' | '.join(cells)} |")
    return lines + _reasons(REASONS)


def _picture_table(rows: list[Row]) -> list[str]:
    lines = [
        _summary(rows, "classes that are given pictures or clips give"),
        "",
        "| pipeline class | makes | takes | same as diffusers | jobs share forwards | |",
        "|---|---|---|---|---|---|",
    ]
    for row in sorted(rows, key=lambda row: row.name):
        family = PICTURE_FAMILIES[row.name]
        cells = row.name, row.kind, ", ".join(family.takes), _yes(row.equal), _yes(row.shared), _note(row, family)
        lines.append(f"| {' | '.join(cells)} |")
    return lines + _reasons({name: reason or "not known" for name, reason in left_out_with_pictures().items()})


def _summary(rows: list[Row], subject: str) -> str:
    equal = [row for row in rows if row.equal]
    return (
        f"{len(equal)} {subject} what diffusers gives, {sum(row.shared for row in equal)} of them with merged forwards."
    )


def _forwards(row: Row) -> str:
    return "yes" if row.shared else "no: they take turns"


def _note(row: Row, family: Family) -> str:
    lent = {"controlnet": "with a ControlNet", "adapter": "with a T2I-Adapter"}.get(family.lent, "")
    over = f"over {family.base.removesuffix('Pipeline')}" if family.base and not lent else ""
    needs = f"needs {family.needs}" if family.needs else ""
    return row.note or ", ".join(filter(None, (over, lent, needs)))


def _reasons(reasons: Mapping[str, str]) -> list[str]:
    lines = ["", "Not in the proof:", "", "| pipeline class | reason |", "|---|---|"]
    return lines + [f"| {name} | {reason} |" for name, reason in sorted(reasons.items())]


def _chat_table(rows: list[Row]) -> list[str]:
    lines = [
        f"{sum(row.equal for row in rows)} architectures give the tokens of `generate`, alone and among others.",
        "",
        "| architecture | same as generate | lane |",
        "|---|---|---|",
    ]
    for row in rows:
        lane = "continuous batching" if row.shared else "plain: one token of one chat at a time"
        lines.append(f"| {row.name} | {_yes(row.equal)} | {lane} |")
    return lines


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def counts(rows: Iterable[Row]) -> Mapping[str, int]:
    pipelines = [row for row in rows if not row.is_chat]
    equal = [row for row in pipelines if row.equal]
    return {
        "tried": len(pipelines),
        "equal": len(equal),
        "shared": sum(row.shared for row in equal),
        "chats": sum(row.equal for row in rows if row.is_chat),
    }
