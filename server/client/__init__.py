"""The Python client: `AgentName` for blocking code, `AsyncAgentName` for asyncio. The command line uses it too.

    from server.client import AgentName

    with AgentName() as client:
        job = client.wait(client.generate("A futuristic city at night", aspect_ratio="16:9").job_id)
        client.save(job.outputs[0], "city.png")

The requests, their order and the retries are written once, in `calls.py`, and `methods.py` lists the methods. The two
classes only do the network I/O.
"""

from server.client.address import url_of
from server.client.aio import AsyncAgentName
from server.client.errors import (
    AgentNameError,
    BadRequest,
    Conflict,
    Forbidden,
    JobCanceled,
    JobDidNotComplete,
    JobFailed,
    NoKey,
    NotFound,
    NotReachable,
    NotThisServer,
    Refused,
    ServerFault,
    TooLarge,
    TooManyRequests,
    Unauthorized,
    Unavailable,
)
from server.client.replies import (
    Accepted,
    ChatDelta,
    ChatReply,
    Conversation,
    ConversationInfo,
    ConversationMessage,
    ConversationsPage,
    DeletedFile,
    Device,
    FilesPage,
    Forgotten,
    Holder,
    InputFile,
    Job,
    JobsPage,
    Model,
    Output,
)
from server.client.sync import AgentName

__all__ = [
    "Accepted",
    "AgentName",
    "AgentNameError",
    "AsyncAgentName",
    "BadRequest",
    "ChatDelta",
    "ChatReply",
    "Conflict",
    "Conversation",
    "ConversationInfo",
    "ConversationMessage",
    "ConversationsPage",
    "DeletedFile",
    "Device",
    "FilesPage",
    "Forbidden",
    "Forgotten",
    "Holder",
    "InputFile",
    "Job",
    "JobCanceled",
    "JobDidNotComplete",
    "JobFailed",
    "JobsPage",
    "Model",
    "NoKey",
    "NotFound",
    "NotReachable",
    "NotThisServer",
    "Output",
    "Refused",
    "ServerFault",
    "TooLarge",
    "TooManyRequests",
    "Unauthorized",
    "Unavailable",
    "url_of",
]
