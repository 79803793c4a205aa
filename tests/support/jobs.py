"""Jobs for tests of the engine and the scheduler: small pictures of a few steps, and chats of one token."""

from __future__ import annotations

from pipelines.chat_interface import ChatRequest
from pipelines.diffusion_interface import DiffusionRequest
from server.job import Job, JobType
from tests.support.prompts import EMPTY


def job(job_id: str, model: str = "m", n: int = 1, steps: int = 3, type_: JobType = "image") -> Job:
    requests = tuple(
        DiffusionRequest(
            id=f"{job_id}/{i}", prompt="", negative_prompt=None, width=8, height=8, num_frames=None, steps=steps,
            guidance_scale=None, seed=i,
        )
        for i in range(n)
    )  # fmt: skip
    return Job(id=job_id, owner="a", type=type_, model=model, requests=requests)


def chat_job(job_id: str, owner: str = "a", priority: int = 0, model: str = "m") -> Job:
    request = ChatRequest(id=job_id, prompt=EMPTY, max_tokens=1)
    return Job(id=job_id, owner=owner, type="chat", model=model, requests=(request,), priority=priority)
