"""The exit codes of the commands. Scripts rely on these numbers; docs/client.md lists them."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from server.client import AgentNameError


class Exit(IntEnum):
    FAILED = 1  # the job failed, or the server has a fault
    WRONG_USE = 2  # an invalid option, file or request
    NO_SERVER = 3  # no server answers, or it is not ready
    NO_ACCESS = 4  # the key is missing, unknown or lacks the scope
    LIMIT = 5  # the plan's daily limit, too many requests at once or a full queue: a later try may succeed
    INTERRUPTED = 130  # Ctrl-C


def exit_of(error: AgentNameError) -> Exit:
    """Returns the exit code for an error of the client."""
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
