"""Log lines can be read by people and machines, and never contain prompts, replies or credentials."""

from __future__ import annotations

import io
import json
import logging

import pytest
import structlog

from server.process.logs import HIDDEN, PRIVATE_FIELDS, configure_logging
from server.store.keys import new_key

logger = logging.getLogger("server.test")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def lines_of(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_json_line_has_the_phrase_the_fields_the_level_and_the_logger() -> None:
    stream = io.StringIO()
    configure_logging("json", "info", stream=stream)
    with structlog.contextvars.bound_contextvars(request_id="r1"):
        logger.info("model loaded", extra={"model": "tiny-scenes", "bytes": 5, "took": [1, 2.5, None]})
    logger.debug("below the level")
    (line,) = lines_of(stream)

    assert line.pop("timestamp")
    assert line == {
        "msg": "model loaded",
        "model": "tiny-scenes",
        "bytes": 5,
        "took": [1, 2.5, None],
        "level": "info",
        "logger": "server.test",
        "request_id": "r1",
    }


@pytest.mark.parametrize(("stream", "readable"), [(Terminal(), True), (io.StringIO(), False)])
def test_auto_is_readable_on_a_terminal_and_json_elsewhere(stream: io.StringIO, readable: bool) -> None:
    configure_logging("auto", "info", stream=stream)
    logger.warning("the server process ended", extra={"wait_s": 0.5})

    assert ("{" not in stream.getvalue()) == readable
    assert "the server process ended" in stream.getvalue()
    assert "wait_s" in stream.getvalue()


@pytest.mark.parametrize("log_format", ["json", "console"])
@pytest.mark.parametrize(
    "field", sorted(PRIVATE_FIELDS - {"message"})
)  # the standard library refuses an extra field of that name
def test_private_fields_are_hidden_at_any_depth(log_format: str, field: str) -> None:
    stream = io.StringIO()
    configure_logging(log_format, "debug", stream=stream)  # type: ignore[arg-type]  # a literal of the two
    logger.info("seen", extra={field: "a red circle", "inside": {"list": [{field: "a red circle"}]}})

    assert "a red circle" not in stream.getvalue()
    assert stream.getvalue().count(HIDDEN) == 2


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_keys_and_passwords_are_hidden_in_every_part_of_a_line(log_format: str) -> None:
    stream = io.StringIO()
    configure_logging(log_format, "debug", stream=stream)  # type: ignore[arg-type]  # a literal of the two
    key = new_key()
    logger.info(f"asked with {key}", extra={"header": f"Bearer {key[:-1]}", "url": "postgresql://me:hunter2@db/x"})
    try:
        raise ValueError(f"bad key {key} for postgresql://me:hunter2@db/x")
    except ValueError:
        logger.exception("failed", extra={"object": {"nested": ValueError(key)}})

    assert key[3:20] not in stream.getvalue()
    assert "hunter2" not in stream.getvalue()
    assert "ValueError: bad key" in stream.getvalue()
    assert "@db/x" in stream.getvalue()


def test_a_traceback_shows_no_values_of_variables() -> None:
    stream = io.StringIO()
    configure_logging("console", "info", stream=stream)
    prompt = "".join(["a red", " circle"])
    try:
        raise KeyError("seed")
    except KeyError:
        logger.exception("failed")

    assert "KeyError: 'seed'" in stream.getvalue()
    assert prompt not in stream.getvalue()


def test_configuring_twice_logs_once() -> None:
    stream = io.StringIO()
    configure_logging("json", "info", stream=stream)
    configure_logging("json", "info", stream=stream)
    logger.info("once")

    assert len(lines_of(stream)) == 1
