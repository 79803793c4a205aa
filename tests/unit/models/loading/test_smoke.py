"""What a model is tried with before it is offered."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from models.errors import LoadFailed
from models.loading.smoke import check_smoke
from models.spec import Defaults, ModelSpec
from pipelines.interface import DiffusionRequest, Failed, FailureCode, Rendered, Update


class Picky:
    """Takes only requests of so many steps."""

    def __init__(self, steps: int, code: FailureCode) -> None:
        self._steps = steps
        self._code: FailureCode = code
        self.asked: list[DiffusionRequest] = []

    def admit(self, request: DiffusionRequest) -> None:
        self.asked.append(request)

    def step(self) -> Sequence[Update]:
        request = self.asked[-1]
        if request.steps != self._steps:
            return [Failed(request.id, self._code, "The pipeline refused the arguments of this job.")]
        return [Rendered(request.id, np.linspace(0, 1, 12, dtype=np.float32).reshape(1, 2, 2, 3), 1, "Euler")]


SPEC = ModelSpec(name="m", type="image", path=None, source="m", defaults=Defaults(steps=48, width=512, height=512))


def test_a_pipeline_that_refuses_few_steps_is_tried_with_its_own_number() -> None:
    lane = Picky(48, "bad_request")
    check_smoke(lane, SPEC)  # type: ignore[arg-type]  # as much of a lane as it uses

    assert [(request.steps, request.width) for request in lane.asked] == [(1, 64), (1, 256), (2, 512), (48, 512)]


def test_one_that_fails_of_itself_is_not_run_at_length() -> None:
    lane = Picky(48, "model_error")

    with pytest.raises(LoadFailed):
        check_smoke(lane, SPEC)  # type: ignore[arg-type]  # see above
    assert [request.steps for request in lane.asked] == [1, 1, 2]
