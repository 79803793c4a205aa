"""Types for the server's replies. A field that this version does not know is kept, since replies may gain fields."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, field_serializer
from pydantic.alias_generators import to_camel

R = TypeVar("R", bound="Reply")


class Reply(BaseModel):
    model_config = ConfigDict(
        alias_generator=to_camel, validate_by_name=True, validate_by_alias=True, extra="allow", frozen=True
    )

    @field_serializer("*", when_used="json", check_fields=False)
    def _server_format(self, value: Any) -> Any:
        """Writes times like the server, with milliseconds and Z."""
        if not isinstance(value, datetime):
            return value
        return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")

    def as_json(self) -> dict[str, Any]:
        """Returns the fields that the server sent, with its names, also those that this version does not know."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)


class Accepted(Reply):
    job_id: str
    status: str
    status_url: str


class Place(Reply):
    """A job's place in the queue; the job at `position` 0 is next. `waiting_for`: turn, gpu_memory or model_load."""

    position: int
    length: int
    waiting_for: str | None
    need_bytes: int
    free_bytes: int


class Output(Reply):
    """A result; `url` needs no key and is valid until the job's `expires_at`."""

    url: str
    mime_type: str
    width: int
    height: int
    duration_seconds: float | None
    seed: int
    n_bytes: int = Field(alias="bytes")
    sha256: str
    flagged: bool | None = None  # a safety checker blacked it out


class Fault(Reply):
    code: str
    message: str
    retryable: bool


class Job(Reply):
    """The state of a job. `progress` goes from 0 to 1 and never decreases."""

    job_id: str
    status: Literal["queued", "processing", "completed", "failed", "canceled"]
    type: str
    model: str
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    expires_at: datetime | None
    progress: float
    stage: str
    step: int
    total_steps: int
    queue: Place | None
    eta_seconds: float | None
    params: dict[str, Any]
    warnings: list[str]
    outputs: list[Output]
    error: Fault | None
    attempt: int
    metrics: dict[str, Any] | None

    @property
    def ended(self) -> bool:
        return self.status in ("completed", "failed", "canceled")


class JobsPage(Reply):
    jobs: list[Job]
    next_cursor: str | None


class InputFile(Reply):
    """A picture or clip that was sent, for requests to name by its `file_id`."""

    file_id: str
    mime_type: str
    width: int
    height: int
    duration_seconds: float | None
    n_bytes: int = Field(alias="bytes")
    sha256: str
    expires_at: datetime


class FilesPage(Reply):
    """`used_bytes` of the server's disk are taken by all files of the key. `limit_bytes` is None without a limit."""

    files: list[InputFile]
    next_cursor: str | None
    used_bytes: int
    limit_bytes: int | None


class DeletedFile(Reply):
    file_id: str
    deleted: bool


class Usage(Reply):
    prompt_tokens: int
    completion_tokens: int  # also those of the thinking
    thinking_tokens: int = 0


class ChatDelta(Reply):
    """A piece of the reply, or of the thinking before it. Of `text` and `thinking`, one is empty."""

    text: str
    thinking: str = ""


class ChatReply(Reply):
    """A reply. Pass its `conversation_id` with the next message to continue the conversation."""

    reply: str
    thinking: str = ""  # what the model thought before it replied
    timestamp: datetime
    conversation_id: str
    model: str
    usage: Usage
    finish_reason: str
    warnings: list[str] = []


class ConversationInfo(Reply):
    """A conversation without its messages; `model` and `system` are those of its latest reply."""

    conversation_id: str
    title: str
    model: str | None
    system: str | None
    created_at: datetime
    updated_at: datetime


class ConversationsPage(Reply):
    conversations: list[ConversationInfo]
    next_cursor: str | None


class ConversationMessage(Reply):
    role: str
    content: str
    thinking: str = ""
    timestamp: datetime


class Conversation(ConversationInfo):
    messages: list[ConversationMessage]


class Forgotten(Reply):
    conversation_id: str
    deleted: bool


class LoadFailure(Reply):
    """Why the last load of a model failed. `detail`, the library's own error, is for admin keys."""

    message: str
    detail: str | None = None


class Model(Reply):
    """A model. `state`: available, loading, resident, parked, failed or incomplete. `running` and `waiting` count jobs.

    An incomplete model cannot be used yet: `missing` names the files that are not there.
    """

    name: str
    type: str
    state: str
    n_bytes: int = Field(alias="bytes")
    default: bool = False
    dtype: str | None = None
    device: str | None = None
    devices: list[str] = []
    running: int = 0
    waiting: int = 0
    components: dict[str, int] = {}
    retry_in_seconds: int | None = None
    pinned: bool = False
    idle_unload_at: datetime | None = None
    merging: str = "unproven"
    failure: LoadFailure | None = None
    notes: list[str] = []
    reason: str | None = None
    missing: list[str] = []
    defaults: dict[str, Any] = {}
    limits: dict[str, Any] = {}


class ModelList(Reply):
    models: list[Model]


class Holder(Reply):
    name: str
    kind: str
    n_bytes: int = Field(alias="bytes")


class Device(Reply):
    """A device's memory in bytes. The `holders` sum to `used`; other programs hold `others`."""

    name: str
    total: int
    used: int
    free: int
    others: int = 0
    reserve: int = 0
    holders: list[Holder]


class DeviceList(Reply):
    devices: list[Device]
