"""How commands end. Scripts rely on these numbers: docs/client.md lists them."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from server.client import AgentNameError


class Exit(IntEnum):
    FAILED = 1  # the job failed, or the server has a fault
    WRONG_USE = 2  # an option, a file or a request that cannot be
    NO_SERVER = 3  # nothing answers, or it is not ready
    NO_ACCESS = 4  # the key is missing, unknown, or not allowed this
    LIMIT = 5  # the day's plan, a burst or the queue: later it may work
    INTERRUPTED = 130  # Ctrl-C


def exit_of(error: AgentNameError) -> Exit:
    from server import client

    match error:
        case client.BadRequest() | client.NotFound() | client.Conflict() | client.TooLarge():
            return Exit.WRONG_USE
        case client.Unauthorized() | client.Forbidden():
            return Exit.NO_ACCESS
        case client.TooManyRequests():
            return Exit.LIMIT
        case client.NoKey() | client.NotReachable() | client.NotThisServer() | client.Unavailable():
            return Exit.NO_SERVER
        case client.JobCanceled():
            return Exit.INTERRUPTED
        case _:
            return Exit.FAILED
