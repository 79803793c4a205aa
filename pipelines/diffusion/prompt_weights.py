"""Which words of a prompt are said to weigh more or less: "a (red:1.3) circle". Text only, no torch.

The notation that A1111 and ComfyUI share, with the number said: bare parentheses are punctuation, here as in any prose.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import groupby

WEIGHT = re.compile(r":\s*(\d+(?:\.\d*)?|\.\d+)\s*\)")
ESCAPED = re.compile(r"\\([()])")


@dataclass(frozen=True, slots=True)
class Fragment:
    text: str
    weight: float = 1.0


def fragments(prompt: str) -> tuple[Fragment, ...]:
    r"""The prompt in pieces of one weight each; groups may be nested, their weights multiply. `\(` is a plain parenthesis.

    A prompt that says no weight is one piece, exactly as it was written.
    """
    found = _read(prompt)
    if found is None:
        return (Fragment(prompt),)
    alike = groupby(found, key=lambda piece: piece.weight)
    return tuple(Fragment(ESCAPED.sub(r"\1", "".join(p.text for p in pieces)), weight) for weight, pieces in alike)


def _read(prompt: str) -> list[Fragment] | None:
    """One pass from the left: the pieces since each open parenthesis are weighted, or left alone, when it closes. None: no weight."""
    open_at: list[int] = []  # in `done`: the pieces inside the parentheses that are open
    done: list[Fragment] = []
    weighted = False
    text, i = "", 0

    def put() -> None:
        nonlocal text
        if text:
            done.append(Fragment(text))
        text = ""

    while i < len(prompt):
        weight = WEIGHT.match(prompt, i)
        if prompt[i] == "\\" and prompt[i + 1 : i + 2] in ("(", ")"):
            text, i = text + prompt[i : i + 2], i + 2
        elif prompt[i] == "(":
            put()
            open_at.append(len(done))
            text, i = "(", i + 1
        elif weight and open_at:
            put()
            weighted = True
            begin, factor = open_at.pop(), float(weight[1])
            inside = [Fragment(done[begin].text[1:]), *done[begin + 1 :]]  # without its "("
            done[begin:] = [Fragment(piece.text, piece.weight * factor) for piece in inside if piece.text]
            i = weight.end()
        elif prompt[i] == ")" and open_at:
            open_at.pop()
            text, i = text + ")", i + 1
        else:
            text, i = text + prompt[i], i + 1
    put()
    return done if weighted else None
