"""Runs a checkpoint's chat template once in a child process with little time and memory, and refuses one that fails.

A chat template is a program that comes with a checkpoint. The sandbox of jinja keeps it from files and objects, but not
from looping or growing without end. `python -m models.chat_template` reads a template from stdin and ends with 0 when a
short conversation renders within the limits, or fails in a way that a template may. A process that is limited itself
(models.isolation) tries the template in place. Any thread; no torch.
"""

from __future__ import annotations

import resource
import subprocess
import sys
from functools import lru_cache

from models.errors import BadModel
from models.files.chat_templates import MAX_TEMPLATE_BYTES
from models.isolation.serving import doing, is_limited
from pipelines.child_process import run

MAX_TEXT_CHARS = 1 << 20  # for a conversation of three lines
MAX_CPU_S = 2
MAX_WALL_S = 8.0
MAX_ADDRESS_BYTES = 512 << 20
TEMPLATE = "its chat template"  # what is being tried, for errors
TOO_MUCH = "its chat template needs more time, memory or text than is allowed"
CONVERSATION = [
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "Hi"},
    {"role": "user", "content": "Why?"},
]


@lru_cache(maxsize=256)
def check_template(text: str) -> None:
    """Raises `BadModel` for a template that needs too much time or memory, or writes too much text."""
    if len(text) > MAX_TEMPLATE_BYTES:
        raise BadModel("its chat template is larger than 1 MiB")
    if is_limited():
        doing(TEMPLATE)
        if _render(text):
            raise BadModel(TOO_MUCH)
        return
    try:
        command = [sys.executable, "-m", "models.chat_template"]
        done = run(command, timeout_s=MAX_WALL_S, text=text.encode("utf-8", "replace"))
    except subprocess.TimeoutExpired:
        raise BadModel(f"its chat template takes more than {MAX_WALL_S:.0f} seconds") from None
    except subprocess.SubprocessError as error:
        raise BadModel(TOO_MUCH, detail=str(error)) from None
    if done.returncode != 0:
        detail = done.stderr[-500:].decode("utf-8", "replace")
        raise BadModel(TOO_MUCH, detail=detail)


def _render(text: str) -> int:
    """Renders the template in this process.

    Returns an exit code: 0 within the limits, 3 too much text, 4 out of memory or stack.
    """
    from jinja2 import TemplateError

    from pipelines.chat.templates.language import template_environment

    variables = {
        "messages": CONVERSATION, "add_generation_prompt": True, "bos_token": "<s>", "eos_token": "</s>", "tools": None,
    }  # fmt: skip
    written = 0
    try:
        for piece in template_environment().from_string(text).generate(**variables):
            written += len(piece)
            if written > MAX_TEXT_CHARS:
                return 3
    except (MemoryError, RecursionError, OverflowError):
        return 4
    except (TemplateError, TypeError, ValueError, KeyError, AttributeError):
        return 0  # the template needs variables that this trial lacks; the tokenizer reports an error when it loads
    return 0


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CPU, (MAX_CPU_S, MAX_CPU_S))
    resource.setrlimit(resource.RLIMIT_AS, (MAX_ADDRESS_BYTES, MAX_ADDRESS_BYTES))
    sys.exit(_render(sys.stdin.buffer.read().decode("utf-8", "replace")))
