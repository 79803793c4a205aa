"""Parses the weights in a prompt: "a (red:1.3) circle". Pure functions over text; no torch.

This is the notation of A1111 and ComfyUI, but only with a number: bare parentheses are punctuation, as in any prose.
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
    r"""The prompt in fragments of one weight each. Weights of nested groups multiply. `\(` is a plain parenthesis.

    A prompt without weights is one fragment, exactly as it was written. One whose groups are all empty, "(:1.2)", is
    an empty text.
    """
    found = _parse(prompt)
    if found is None:
        return (Fragment(prompt),)
    by_weight = groupby(found, key=lambda fragment: fragment.weight)
    read = tuple(Fragment(ESCAPED.sub(r"\1", "".join(f.text for f in group)), weight) for weight, group in by_weight)
    return read or (Fragment(""),)


def _parse(prompt: str) -> list[Fragment] | None:
    """Parse in one pass. When a parenthesis closes, the fragments since it opened get its weight, if it has one.

    Returns None for a prompt without weights.
    """
    open_at: list[int] = []  # for each open parenthesis, the index in `done` of its first fragment
    done: list[Fragment] = []
    weighted = False
    text, i = "", 0

    def end_fragment() -> None:
        nonlocal text
        if text:
            done.append(Fragment(text))
        text = ""

    while i < len(prompt):
        weight = WEIGHT.match(prompt, i)
        if prompt[i] == "\\" and prompt[i + 1 : i + 2] in ("(", ")"):
            text, i = text + prompt[i : i + 2], i + 2
        elif prompt[i] == "(":
            end_fragment()
            open_at.append(len(done))
            text, i = "(", i + 1
        elif weight and open_at:
            end_fragment()
            weighted = True
            begin, factor = open_at.pop(), float(weight[1])
            inside = [Fragment(done[begin].text[1:]), *done[begin + 1 :]]  # without the "("
            done[begin:] = [Fragment(each.text, each.weight * factor) for each in inside if each.text]
            i = weight.end()
        elif prompt[i] == ")" and open_at:
            open_at.pop()
            text, i = text + ")", i + 1
        else:
            text, i = text + prompt[i], i + 1
    end_fragment()
    return done if weighted else None
