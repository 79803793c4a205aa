"""What a job still has to run, from measured times only. Device thread only; pure arithmetic.

A request's device seconds are its shares of the forwards it was in; what the device thread spends beside them is kept as a factor of the model. Of finished requests we keep, per model and shape,
the seconds a denoising step took and the seconds of the rest (text encoding, decoding); of chats how many forwards a
reply took. `forecast.py` makes of it when jobs end. Never measured: unknown, not guessed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from pipelines.interface import ChatRequest, DiffusionRequest, Request, StepCost
from server.forecast import Work
from server.jobs import Job

FADING = 0.99  # weight of what was known of the seconds beside the forwards when another step ends
MEMORY = 0.3  # weight of the newest measurement in the running mean: follows a change of load within a few jobs
CHAT = "decode decode"  # what the forwards of a chat are measured as: stage and shape


@dataclass(slots=True)
class Spent:
    """Device seconds one request has used so far."""

    denoising_s: float = 0.0
    rest_s: float = 0.0
    steps: int = 0
    peak_bytes: int | None = None  # most that one of its forwards held beside the weights
    forwards: int = 0


@dataclass(frozen=True, slots=True)
class Known:
    step_s: float
    rest_s: float


@dataclass(slots=True)
class Estimates:
    _known: dict[tuple[str, str], Known] = field(default_factory=dict)  # (model, shape) → means
    _reply: dict[str, float] = field(default_factory=dict)  # chat model → forwards of a reply
    _spent: dict[str, Spent] = field(default_factory=dict)  # by request id
    _turns: dict[str, tuple[float, float]] = field(
        default_factory=dict
    )  # model → seconds of its turns, of forwards in them

    def note(self, costs: Iterable[StepCost]) -> None:
        for cost in costs:
            for request_id in cost.request_ids:
                spent = self._spent.setdefault(request_id, Spent())
                spent.forwards += 1
                if cost.stage == "denoising":
                    spent.denoising_s += cost.seconds / cost.rows
                else:
                    spent.rest_s += cost.seconds / cost.rows

    def turned(self, model: str, seconds: float, forward_s: float) -> None:
        """A turn of `model` took `seconds`, decision and news included; its forwards took `forward_s` of them."""
        turns, forwards = self._turns.get(model, (0.0, 0.0))
        self._turns[model] = FADING * turns + seconds, FADING * forwards + forward_s

    def drag(self, model: str) -> float:
        """How many times as long as its forwards its turns take; 1 when it never ran."""
        turns, forwards = self._turns.get(model, (0.0, 0.0))
        return max(1.0, turns / forwards) if forwards > 0 else 1.0

    def progressed(self, request_id: str, step: int) -> None:
        self._spent.setdefault(request_id, Spent()).steps = step

    def finished(self, model: str, request: Request) -> None:
        """Learn from a request that ran to its end."""
        spent = self._spent.pop(request.id, None)
        if spent is None:
            return
        if isinstance(request, ChatRequest):
            mean = self._reply.get(model, spent.forwards)
            self._reply[model] = mean + MEMORY * (spent.forwards - mean)
        elif spent.steps:
            new = Known(spent.denoising_s / spent.steps, spent.rest_s)
            old = self._known.get((model, shape_of(request)), new)
            self._known[model, shape_of(request)] = Known(
                step_s=old.step_s + MEMORY * (new.step_s - old.step_s),
                rest_s=old.rest_s + MEMORY * (new.rest_s - old.rest_s),
            )

    def held(self, request_ids: Iterable[str], n_bytes: int | None) -> None:
        """What a forward of these requests held beside the weights; None: not known."""
        for request_id in request_ids if n_bytes is not None else ():
            spent = self._spent.setdefault(request_id, Spent())
            spent.peak_bytes = max(spent.peak_bytes or 0, n_bytes or 0)

    def peak_bytes(self, request_id: str) -> int | None:
        """None when no forward of it was measured."""
        return self._spent.get(request_id, Spent()).peak_bytes

    def forget(self, request_id: str) -> None:
        self._spent.pop(request_id, None)

    def remaining_s(self, job: Job) -> float | None:
        """Device seconds `job` still needs; None when its shape on that model was never run to the end."""
        total = 0.0
        for request in job.requests:
            known = self._known_of(job.model, request)
            if known is None or not isinstance(request, DiffusionRequest):
                return None
            spent = self._spent.get(request.id, Spent())
            total += known.step_s * max(0, request.steps - spent.steps) + max(0.0, known.rest_s - spent.rest_s)
        return total

    def work(self, job: Job) -> Work | None:
        """The same as forwards: encoding and decoding count as the steps they take as long as."""
        forwards = [self._forwards(job.model, request) for request in job.requests]
        known = tuple(n for n in forwards if n is not None)
        first = job.requests[0]
        shape = CHAT if isinstance(first, ChatRequest) else f"denoising {shape_of(first)}"
        return Work(job.id, job.model, shape, known) if len(known) == len(forwards) else None

    def step_s(self, model: str, shape: str) -> float | None:
        """Device seconds of a step, as shared out; `shape` as in `Work`."""
        known = self._known.get((model, shape.removeprefix("denoising ")))
        return None if known is None else known.step_s

    def _known_of(self, model: str, request: Request) -> Known | None:
        return self._known.get((model, shape_of(request))) if isinstance(request, DiffusionRequest) else None

    def _forwards(self, model: str, request: Request) -> float | None:
        spent = self._spent.get(request.id, Spent())
        if isinstance(request, ChatRequest):
            mean = self._reply.get(model)
            return None if mean is None else max(1.0, mean - spent.forwards)
        known = self._known_of(model, request)
        if known is None:
            return None
        rest = max(0.0, known.rest_s - spent.rest_s) / known.step_s if known.step_s else 0.0
        return max(0, request.steps - spent.steps) + rest


def shape_of(request: DiffusionRequest) -> str:
    return f"{request.width}x{request.height}x{request.num_frames or 1}"
