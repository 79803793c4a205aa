"""Runs the jobs of one request to their end, for routes that reply with the results. Event loop only."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.types import Receive

from server.accounts.auth import ApiKey
from server.api.openai.wire import failure
from server.api.wait_for_job import wait_for_job
from server.job import State
from server.jobs.job_view import JobView
from server.jobs.request.generate_request import GenerateRequest
from server.service.service import Service


async def run_jobs(
    service: Service, key: ApiKey, wanted: Sequence[GenerateRequest], receive: Receive
) -> list[JobView] | None:
    """Returns the completed jobs, or None when the client has disconnected.

    All jobs are submitted first. When one is refused, fails or is canceled, or the client leaves, those that have not
    ended are canceled. Raises what `Submission.accept` raises, and the error of a job that did not complete.
    """
    open_jobs: list[str] = []
    views: list[JobView] = []
    try:
        for request in wanted:
            accepted = await service.submission.accept(key, request)
            open_jobs.append(accepted.job_id)  # at once: the next one may be refused
        while open_jobs:
            view = await wait_for_job(service, key, open_jobs[0], receive)
            if view is None:
                return None
            del open_jobs[0]
            if view.status is not State.COMPLETED:
                raise failure(view)
            views.append(view)
        return views
    finally:
        for job_id in open_jobs:
            if service.live_jobs.get(job_id) is not None:  # the results of those that have ended stay
                await service.jobs.cancel(key, job_id)
