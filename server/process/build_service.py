"""Wires the parts of the service together, over a real or a fake engine. Event loop only; called once, at start."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

from server.accounts.quotas import DEFAULT_PLANS, BurstLimiter, Plan
from server.accounts.sdapi_options import SdapiOptions
from server.accounts.usage import Accounts
from server.fleet.engine_port import Engine
from server.jobs.artifacts import Artifacts
from server.jobs.crashes import Crashes
from server.jobs.event_stream import JobEvents
from server.jobs.inputs.decoder import Decoder
from server.jobs.inputs.files import InputFiles
from server.jobs.inputs.remote_files import RemoteFiles
from server.jobs.jobs import Jobs
from server.jobs.limits import Catalogue, JobLimits, MemoryRequirements
from server.jobs.live_jobs import LiveJobs
from server.jobs.recovery import Recovery
from server.jobs.results import Results
from server.jobs.submission import Loras, Submission
from server.jobs.webhooks import Webhooks
from server.service.chat import Chats
from server.service.chat_images import ChatImages
from server.service.conversations import Conversations
from server.service.dispatch import Dispatch
from server.service.embeddings import Embeddings
from server.service.learned import LearnedValues
from server.service.metrics import Metrics
from server.service.model_overrides import ModelOverrides
from server.service.models import Models
from server.service.prompts import Prompts
from server.service.responses import Responses
from server.service.revocation import Revocations
from server.service.running_chats import RunningChats
from server.service.service import Service
from server.service.texts import Texts
from server.store.database import Database


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceOptions:
    """The settings that the parts of the service use."""

    plans: Mapping[str, Plan] = field(default_factory=lambda: DEFAULT_PLANS)
    queue_size: int = 10_000
    max_queued_per_key: int | None = None
    output_retention: timedelta = timedelta(hours=24)
    job_retention: timedelta = timedelta(days=30)
    file_retention: timedelta = timedelta(hours=24)
    system_prompt: str | None = None
    keep_alive_s: float = 300.0
    auto_dtype: Literal["float32", "bfloat16"] = "float32"
    fetch_images: bool = False
    image_networks: Sequence[str] = ()


def build_service(
    options: ServiceOptions,
    *,
    database: Database,
    catalogue: Catalogue,
    engine: Engine,
    requirements: MemoryRequirements,
    learned: LearnedValues,
    prompts: Prompts,
    texts: Texts,
    artifacts: Artifacts,
    decoder: Decoder,
    data_dir: Path,
    webhooks: Webhooks,
    loras: Loras,
    burst_limiter: BurstLimiter,
    clock: Callable[[], datetime],
    crashes: Crashes,
    storage_fault: Callable[[], str | None] = lambda: None,
) -> Service:
    """Builds the service; its parts share one `LiveJobs`, one `RunningChats` and one `Metrics`."""
    live_jobs = LiveJobs()
    running_chats = RunningChats(engine)
    metrics = Metrics(live_jobs)
    accounts = Accounts(database=database, plans=options.plans, clock=clock)
    limits = JobLimits(
        catalogue=catalogue,
        engine=engine,
        live_jobs=live_jobs,
        burst_limiter=burst_limiter,
        requirements=requirements,
        queue_size=options.queue_size,
        max_queued_per_key=options.max_queued_per_key,
        storage_fault=storage_fault,
    )
    results = Results(
        database=database,
        artifacts=artifacts,
        live_jobs=live_jobs,
        engine=engine,
        webhooks=webhooks,
        clock=clock,
        output_retention=options.output_retention,
        on_end=metrics.job_ended,
    )
    input_files = InputFiles(
        data_dir,
        database=database,
        decoder=decoder,
        accounts=accounts,
        artifacts=artifacts,
        clock=clock,
        retention=options.file_retention,
        remote_files=RemoteFiles(fetches=options.fetch_images, networks=options.image_networks),
    )
    submission = Submission(
        database=database,
        catalogue=catalogue,
        engine=engine,
        accounts=accounts,
        limits=limits,
        live_jobs=live_jobs,
        results=results,
        webhooks=webhooks,
        loras=loras,
        input_files=input_files,
        clock=clock,
        auto_dtype=options.auto_dtype,
    )
    events = JobEvents(database, live_jobs)
    jobs = Jobs(
        database=database, engine=engine, artifacts=artifacts, live_jobs=live_jobs, results=results, events=events
    )
    chats = Chats(
        database=database,
        accounts=accounts,
        limits=limits,
        results=results,
        metrics=metrics,
        running_chats=running_chats,
        prompts=prompts,
        images=ChatImages(catalogue.specs, input_files, fetches=options.fetch_images, networks=options.image_networks),
        clock=clock,
        system_prompt=options.system_prompt,
    )
    model_overrides = ModelOverrides(
        database=database,
        catalogue=catalogue,
        engine=engine,
        live_jobs=live_jobs,
        requirements=requirements,
        keep_alive_s=options.keep_alive_s,
        crashes=crashes,
    )
    recovery = Recovery(
        database=database,
        catalogue=catalogue,
        artifacts=artifacts,
        input_files=input_files,
        live_jobs=live_jobs,
        submission=submission,
        results=results,
        crashes=crashes,
        clock=clock,
        job_retention=options.job_retention,
    )
    return Service(
        accounts=accounts,
        sdapi_options=SdapiOptions(database),
        limits=limits,
        submission=submission,
        input_files=input_files,
        jobs=jobs,
        live_jobs=live_jobs,
        events=events,
        results=results,
        recovery=recovery,
        webhooks=webhooks,
        revocations=Revocations(database=database, jobs=jobs, live_jobs=live_jobs, running_chats=running_chats),
        chats=chats,
        conversations=Conversations(database),
        responses=Responses(database),
        embeddings=Embeddings(accounts=accounts, limits=limits, running=running_chats, texts=texts),
        catalogue=catalogue,
        models=Models(catalogue=catalogue, live_jobs=live_jobs, model_overrides=model_overrides, clock=clock),
        model_overrides=model_overrides,
        loras=loras,
        auto_dtype=options.auto_dtype,
        dispatch=Dispatch(
            live_jobs=live_jobs,
            results=results,
            running_chats=running_chats,
            metrics=metrics,
            learned=learned,
            crashes=crashes,
        ),
        metrics=metrics,
        clock=clock,
    )
