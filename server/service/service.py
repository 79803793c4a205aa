"""The parts of the product that the routes use, without HTTP. `server/process/build_service.py` wires them together.

Event loop only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from server.accounts.sdapi_options import SdapiOptions
from server.accounts.usage import Accounts
from server.jobs.event_stream import JobEvents
from server.jobs.inputs.files import InputFiles
from server.jobs.jobs import Jobs
from server.jobs.limits import Catalogue, JobLimits
from server.jobs.live_jobs import LiveJobs
from server.jobs.recovery import Recovery
from server.jobs.results import Results
from server.jobs.submission import Loras, Submission
from server.jobs.webhooks import Webhooks
from server.service.chat import Chats
from server.service.conversations import Conversations
from server.service.dispatch import Dispatch
from server.service.embeddings import Embeddings
from server.service.metrics import Metrics
from server.service.model_overrides import ModelOverrides
from server.service.models import Models
from server.service.responses import Responses
from server.service.revocation import Revocations


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    accounts: Accounts  # keys, plans, usage
    sdapi_options: SdapiOptions
    limits: JobLimits  # whether a key may start one more job
    # Images and videos
    submission: Submission
    input_files: InputFiles  # what jobs start from
    jobs: Jobs
    live_jobs: LiveJobs  # jobs that have not ended, and the latest status of the devices
    events: JobEvents
    results: Results
    recovery: Recovery
    webhooks: Webhooks
    revocations: Revocations
    # Chat
    chats: Chats
    conversations: Conversations
    responses: Responses
    embeddings: Embeddings
    # Models
    catalogue: Catalogue
    models: Models
    model_overrides: ModelOverrides
    loras: Loras
    auto_dtype: Literal["float32", "bfloat16"]  # the precision of models with dtype "auto"
    # The server
    dispatch: Dispatch  # handles the engines' events
    metrics: Metrics
    clock: Callable[[], datetime]
