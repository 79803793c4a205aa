"""Says in one sentence why the hub did not give a repository. Pure functions; in the pull's own process."""

from __future__ import annotations

from models.errors import FetchFailed
from models.sources.hub_id import HubId
from models.sources.retries import MAX_WAIT_S, Interrupted


def explain(wanted: HubId, error: Exception) -> FetchFailed:
    """error: of huggingface_hub, `Interrupted`, or an OSError while the cache was written."""
    from huggingface_hub import errors, get_token

    repo, detail = wanted.repo, f"{type(error).__name__}: {error}"
    if isinstance(error, Interrupted):
        return FetchFailed(_interrupted(repo, error), detail=detail)
    if isinstance(error, errors.OfflineModeIsEnabled):
        return FetchFailed(f"{repo} is not on this machine and HF_HUB_OFFLINE forbids downloads", detail=detail)
    if isinstance(error, errors.HFValidationError):
        return FetchFailed(f"{repo} is not the name of a hub repository", detail=detail)
    if isinstance(error, errors.GatedRepoError):
        if get_token() is None:
            return FetchFailed(f"{repo} is gated: accept its terms on the hub, then set HF_TOKEN", detail=detail)
        return FetchFailed(
            f"{repo} is gated and the account of HF_TOKEN has no access: accept its terms on the hub",
            detail=detail,
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return FetchFailed(f"{repo} has no revision {wanted.revision or 'main'}", detail=detail)
    if isinstance(error, errors.DisabledRepoError):
        return FetchFailed(f"the hub has disabled {repo}", detail=detail)
    if isinstance(error, errors.RepositoryNotFoundError):
        hint = "is private: set HF_TOKEN" if get_token() is None else "the account of HF_TOKEN has no access to it"
        return FetchFailed(f"{repo} is not on the hub, or {hint}", detail=detail)
    if isinstance(error, errors.RemoteEntryNotFoundError):
        return FetchFailed(f"{repo} changed while it was downloaded: a file is gone; pull again", detail=detail)
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        return FetchFailed(
            f"the hub refused HF_TOKEN for {repo}" if get_token() else f"{repo} needs a token: set HF_TOKEN",
            detail=detail,
        )
    if status is not None:
        return FetchFailed(f"the hub answered {status} for {repo}", detail=detail)
    if isinstance(error, OSError) and error.errno is not None:  # a full disk, a cache without write permission
        return FetchFailed(f"{repo} could not be written: {error.strerror}", detail=detail)
    return FetchFailed(f"the model hub cannot be reached; {repo} was not downloaded", detail=detail)


def _interrupted(repo: str, error: Interrupted) -> str:
    if error.status == 429:
        asked = error.retry_after_s or 0
        when = f"in {asked:.0f} s" if asked > MAX_WAIT_S else "later"
        return f"the hub limits the rate of requests (429); pull {repo} again {when}"
    if error.status is not None:
        return f"the hub answers {error.status} for {repo}; pull again later"
    return f"the model hub cannot be reached; {repo} was not downloaded"


def is_offline() -> bool:
    from huggingface_hub import constants

    return bool(constants.is_offline_mode())
