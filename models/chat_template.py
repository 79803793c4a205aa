"""A chat template is a program that comes with a checkpoint: it is tried once, in a process with little time and memory. No torch.

The sandbox of jinja keeps it from files and objects, not from looping or growing without end. python -m models.chat_template reads one
from stdin and ends with 0 when a short conversation renders, or fails as templates may, within the limits.
"""

from __future__ import annotations

import resource
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

from models.errors import BadModel
from models.files import parse_json

MAX_TEMPLATE_BYTES = 1 << 20  # the largest in use is under 100 KiB
MAX_TEXT_CHARS = 1 << 20  # of a conversation of two lines
MAX_CPU_S = 2
MAX_WALL_S = 8.0
MAX_ADDRESS_BYTES = 512 << 20
TALK = [
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "Hi"},
    {"role": "user", "content": "Why?"},
]


def check_templates(folder: Path) -> None:
    """Of a language model's folder. Raises `BadModel`."""
    for text in _templates(folder):
        check_template(text)


@lru_cache(maxsize=256)
def check_template(text: str) -> None:
    """Raises `BadModel` for one that takes too long, too much memory, or writes a book."""
    if len(text) > MAX_TEMPLATE_BYTES:
        raise BadModel("its chat template is too large to be one")
    try:
        done = subprocess.run(
            [sys.executable, "-m", "models.chat_template"],
            input=text.encode("utf-8", "replace"),
            capture_output=True,
            timeout=MAX_WALL_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise BadModel("its chat template does not come to an end") from None
    if done.returncode != 0:
        detail = done.stderr[-500:].decode("utf-8", "replace")
        raise BadModel("its chat template takes more time, memory or text than a template may", detail=detail)


def _templates(folder: Path) -> list[str]:
    found: list[object] = []
    for name in ("tokenizer_config.json", "chat_template.json"):
        if (folder / name).is_file():
            config = parse_json((folder / name).read_bytes(), name)
            said = config.get("chat_template") if isinstance(config, dict) else None
            found += [
                each.get("template") if isinstance(each, dict) else each
                for each in (said if isinstance(said, list) else [said])
            ]
    for path in sorted(folder.glob("*.jinja")):
        if path.stat().st_size > MAX_TEMPLATE_BYTES:
            raise BadModel("its chat template is too large to be one")
        found.append(path.read_text("utf-8", "replace"))
    return [text for text in found if isinstance(text, str)]


def _render(text: str) -> int:
    from jinja2 import TemplateError
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(message: str) -> None:
        raise TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
    )  # not HTML
    environment.globals |= {"raise_exception": refuse, "strftime_now": lambda _: "today"}
    said = {"messages": TALK, "add_generation_prompt": True, "bos_token": "<s>", "eos_token": "</s>", "tools": None}
    written = 0
    try:
        for piece in environment.from_string(text).generate(**said):
            written += len(piece)
            if written > MAX_TEXT_CHARS:
                return 3
    except (MemoryError, RecursionError, OverflowError):
        return 4
    except (TemplateError, TypeError, ValueError, KeyError, AttributeError):
        return 0  # it wants what this trial does not give: the tokenizer says so when the model is loaded
    return 0


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CPU, (MAX_CPU_S, MAX_CPU_S))
    resource.setrlimit(resource.RLIMIT_AS, (MAX_ADDRESS_BYTES, MAX_ADDRESS_BYTES))
    sys.exit(_render(sys.stdin.buffer.read().decode("utf-8", "replace")))
