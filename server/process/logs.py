"""Writes one log line per event: readable on a terminal, JSON elsewhere, never with prompts or secrets. Any thread.

All code logs through the standard library, with a fixed phrase and `extra={…}` fields; both become one line here.
Secrets are hidden in the lines of libraries, too.
"""

from __future__ import annotations

import atexit
import logging
import os
import re
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any, Literal, TextIO

import structlog

from server.process.log_limit import KindLimit

MAX_CHARACTERS = 8192  # of one value, such as a traceback or the message of a library's exception
HIDDEN = "[hidden]"
# Prompts, replies and credentials: hidden at every log level.
PRIVATE_FIELDS = frozenset(
    {
        "prompt",
        "negative_prompt",
        "message",
        "messages",
        "text",
        "reply",
        "content",
        "system",
        "system_prompt",
        "request",
    }
    | {"authorization", "key", "api_key", "token", "password", "secret", "database_url", "headers", "body"}
)
_SECRETS = re.compile(
    r"an_[0-9A-Za-z]{22,}_[0-9A-Za-z]+|(?<=[Bb]earer )\S+|hf_[0-9A-Za-z]{20,}|(?<=://)[^/\s:@]+:[^/\s@]+(?=@)"
)


def configure_logging(
    log_format: Literal["auto", "console", "json"], level: str, *, stream: TextIO | None = None
) -> None:
    """Replace the root logger's handlers. auto: console on a terminal, json elsewhere. stream: default stderr.

    FORCE_COLOR in the environment colors the lines of a process whose terminal is behind a relay (`log_relay.py`).
    """
    target = stream or sys.stderr
    readable = log_format == "console" or (log_format == "auto" and target.isatty())
    shared: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,  # request_id, job_id: bound where one is handled
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    last: list[structlog.types.Processor] = [
        structlog.stdlib.ProcessorFormatter.remove_processors_meta,
        structlog.processors.format_exc_info,  # the plain traceback, without values of local variables
        hide_private,
    ]
    if readable:
        last.append(structlog.dev.ConsoleRenderer(colors=target.isatty() or "FORCE_COLOR" in os.environ))
    else:
        last += [structlog.processors.EventRenamer("msg"), structlog.processors.JSONRenderer(default=str)]
    handler = logging.StreamHandler(target)
    limit = KindLimit()
    handler.addFilter(limit)
    atexit.register(limit.tell)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=last))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.captureWarnings(True)
    # Their "info" lines are about their own workings; the server logs its start and stop itself.
    for name in ("uvicorn", "alembic", "httpx", "httpcore", "urllib3", "filelock"):
        logging.getLogger(name).setLevel(logging.WARNING)


def hide_private(_logger: object, _method: str, fields: MutableMapping[str, Any]) -> Mapping[str, Any]:
    """Hide private fields by name, and keys and passwords by their form, in every value and in the traceback."""
    return {name: HIDDEN if name in PRIVATE_FIELDS else _public(value) for name, value in fields.items()}


def _public(value: object) -> object:
    match value:
        case None | bool() | int() | float():
            return value
        case Mapping():
            return hide_private(None, "", {str(name): inner for name, inner in value.items()})
        case list() | tuple() | set() | frozenset():
            return [_public(inner) for inner in value]
        case _:
            return _shortened(_SECRETS.sub(HIDDEN, str(value)))


def _shortened(text: str) -> str:
    """The beginning and the end: those of a traceback say most."""
    half = MAX_CHARACTERS // 2
    left_out = len(text) - 2 * half
    return text if left_out <= 0 else f"{text[:half]} … {left_out} characters … {text[-half:]}"
