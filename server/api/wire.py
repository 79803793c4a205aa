"""The JSON of replies: functions that build it, and the pydantic models that describe it in the OpenAPI document.

Pure functions.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict

from pipelines.interface import Stage
from server.jobs.job_view import JobView
from server.store.jobs import OutputRow

JsonObject: TypeAlias = dict[str, Any]
Link: TypeAlias = Callable[[OutputRow, datetime], str]


class Reply(BaseModel):
    """A reply may gain fields in a later version: clients must ignore fields they do not know."""

    model_config = ConfigDict(extra="allow")


class ErrorReply(BaseModel):
    model_config = ConfigDict(extra="forbid")
    error: str
    code: int


class GenerateReply(Reply):
    jobId: str
    status: Literal["queued"]
    statusUrl: str


class QueueReply(Reply):
    position: int
    length: int
    waitingFor: Literal["turn", "gpu_memory", "model_load"] | None
    needBytes: int
    freeBytes: int


class OutputReply(Reply):
    fileId: str  # stands for the output where a request takes a picture or clip
    url: str
    mimeType: str
    width: int
    height: int
    durationSeconds: float | None
    seed: int
    bytes: int
    sha256: str
    flagged: bool | None


class JobErrorReply(Reply):
    code: str
    message: str
    retryable: bool


class StatusReply(Reply):
    jobId: str
    status: Literal["queued", "processing", "completed", "failed", "canceled"]
    type: Literal["image", "video"]
    model: str
    prompt: str | None
    createdAt: str
    startedAt: str | None
    finishedAt: str | None
    expiresAt: str | None
    progress: float
    stage: Stage
    step: int
    totalSteps: int
    queue: QueueReply | None
    etaSeconds: float | None
    params: dict[str, Any]
    warnings: list[str]
    outputs: list[OutputReply]
    error: JobErrorReply | None
    attempt: int
    metrics: dict[str, Any] | None


class JobsReply(Reply):
    jobs: list[StatusReply]
    nextCursor: str | None


class Usage(Reply):
    promptTokens: int
    completionTokens: int  # also those of the thinking
    thinkingTokens: int


class ChatReplyBody(Reply):
    reply: str
    thinking: str | None = None
    timestamp: str
    conversationId: str
    model: str
    usage: Usage
    finishReason: Literal["stop", "length"]
    warnings: list[str]


def timestamp(at: datetime | None) -> str | None:
    """Returns `at` in UTC as ISO 8601 with milliseconds and a trailing Z."""
    return None if at is None else at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def job_json(view: JobView, link: Link) -> JsonObject:
    place, metrics = view.queue_position, view.metrics
    return {
        "jobId": view.id,
        "status": view.status.value,
        "type": view.type,
        "model": view.model,
        "prompt": view.prompt,
        "createdAt": timestamp(view.created_at),
        "startedAt": timestamp(view.started_at),
        "finishedAt": timestamp(view.finished_at),
        "expiresAt": timestamp(view.expires_at),
        "progress": round(view.progress, 4),
        "stage": view.stage,
        "step": view.step,
        "totalSteps": view.total_steps,
        "queue": place
        and {
            "position": place.position,
            "length": place.length,
            "waitingFor": place.waiting_for,
            "needBytes": place.need_bytes,
            "freeBytes": place.free_bytes,
        },
        "etaSeconds": None if view.eta_s is None else round(view.eta_s, 1),
        "params": view.params,
        "warnings": list(view.warnings),
        "outputs": [_output_json(output, link(output, view.expires_at)) for output in view.outputs if view.expires_at],
        "error": view.error,
        "attempt": view.attempt,
        "metrics": metrics,
    }


def _output_json(output: OutputRow, query: str) -> JsonObject:
    return {
        "fileId": output.id,
        "url": f"/api/files/{output.id}?{query}",
        "mimeType": output.mime_type,
        "width": output.width,
        "height": output.height,
        "durationSeconds": output.duration_s,
        "seed": output.seed,
        "bytes": output.n_bytes,
        "sha256": output.sha256,
        "flagged": output.flagged,
    }


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Returns `responses` for a route: the given error statuses, and those that every route can answer."""
    return {status: {"model": ErrorReply} for status in sorted({400, 401, 403, 500, 502, *statuses})}


def json_body(*models: type[BaseModel], required: bool = True) -> dict[str, Any]:
    """Returns `openapi_extra` for a route that parses its body itself, because FastAPI's parsing is too lax."""
    schemas = [_inlined(model) for model in models]
    schema = schemas[0] if len(schemas) == 1 else {"oneOf": schemas}
    return {"requestBody": {"required": required, "content": {"application/json": {"schema": schema}}}}


def _inlined(model: type[BaseModel]) -> JsonObject:
    """Returns the JSON schema with nested models in place: `openapi_extra` cannot add to the document's components."""
    schema = model.model_json_schema()
    nested = schema.pop("$defs", {})

    def inline(part: Any) -> Any:
        if isinstance(part, dict):
            if "$ref" in part:
                return inline(nested[part["$ref"].rpartition("/")[2]])
            return {name: inline(value) for name, value in part.items()}
        return [inline(item) for item in part] if isinstance(part, list) else part

    inlined: JsonObject = inline(schema)
    return inlined
