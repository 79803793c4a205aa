"""Which ControlNet each map of a request gets, and what is refused by which field."""

from __future__ import annotations

from typing import Any

import pytest

from models.errors import StillRead, UnknownModel
from models.spec import ModelSpec
from pipelines.diffusion_interface import PipelineTask
from server.errors import BadRequest, ModelStillRead
from server.jobs.request.controls import ChosenControl, check_controls, choose_controls, tasks_for
from server.jobs.request.generate_request import WantedControl

ARGUMENTS = frozenset({"controlnet_conditioning_scale", "control_guidance_start", "control_guidance_end"})
TEXT = PipelineTask("StableDiffusionXLPipeline")
FOLLOWS = PipelineTask(
    "StableDiffusionXLControlNetPipeline", {"control": "image"}, frozenset({"control"}), ARGUMENTS,
    {"controlnet": ("ControlNetModel",)},
)  # fmt: skip
UNION = PipelineTask(
    "StableDiffusionXLControlNetUnionPipeline", {"control": "control_image"}, frozenset({"control"}), ARGUMENTS,
    {"controlnet": ("ControlNetUnionModel",)},
)  # fmt: skip
ITSELF = PipelineTask("FluxControlPipeline", {"control": "control_image"}, frozenset({"control"}))
BASE = ModelSpec(name="base", type="image", path=None, source="", tasks=(TEXT, FOLLOWS, UNION))


def net(name: str, *types: str, cls: str = "ControlNetModel", **values: Any) -> ModelSpec:
    return ModelSpec(
        name=name, type="adapter", path=None, source="", adapter="controlnet", adapter_class=cls, control_types=types,
        **values,
    )  # fmt: skip


MODES = {"pose": 0, "depth": 1, "canny": 3}
HERE = {
    spec.name: spec
    for spec in (
        BASE,
        net("canny-b", "canny"),
        net("canny-a", "canny"),
        net("odd", "depth", cls="SD3ControlNetModel"),
        net("union", *MODES, cls="ControlNetUnionModel", control_modes=MODES),
    )
}


THOSE = "Those that fit base: canny-a (canny), canny-b (canny), union (pose, depth, canny)"


def find(name: str) -> ModelSpec:
    if name not in HERE:
        raise UnknownModel("There is no model of that name.")
    return HERE[name]


def chosen(*wanted: dict[str, Any], base: ModelSpec = BASE) -> tuple[ChosenControl, ...]:
    controls = [WantedControl(**{"image": "file"} | each) for each in wanted]
    return choose_controls(controls, base, find, list(HERE.values()))


def check(*wanted: dict[str, Any]) -> None:
    controls = chosen(*wanted)
    check_controls(controls, tasks_for(controls, BASE)[0])


def refused(*wanted: dict[str, Any]) -> str:
    with pytest.raises(BadRequest) as raised:
        check(*wanted)
    return str(raised.value)


def test_a_type_gets_the_first_fitting_controlnet_that_follows_it_alone() -> None:
    (control,) = chosen({"type": "canny"})

    assert control.adapter is HERE["canny-a"]
    assert (control.mode, control.preprocessor) == (None, "auto")
    assert tasks_for([control], BASE) == (FOLLOWS,)


def test_a_type_of_a_controlnet_of_several_kinds_is_its_mode() -> None:
    (control,) = chosen({"type": "openpose"})

    assert (control.adapter, control.mode, control.preprocessor) == (HERE["union"], 0, None)
    assert tasks_for([control], BASE) == (UNION,)


def test_without_a_control_the_classes_that_borrow_are_left_out() -> None:
    assert tasks_for((), BASE) == (TEXT,)


def test_a_checkpoint_that_follows_maps_itself_borrows_nothing() -> None:
    base = ModelSpec(name="flux-canny", type="image", path=None, source="", tasks=(ITSELF,))

    (control,) = chosen({"type": "depth"}, base=base)

    assert control.adapter is None
    assert tasks_for([control], base) == (ITSELF,)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"type": "tile"}, f"control[0].type tile: no ControlNet here follows it for base. {THOSE}."),
        ({"model": "odd"}, "control[0].model odd is a SD3ControlNetModel, which no pipeline of base takes. "),
        ({"model": "base"}, "control[0].model base is no ControlNet or T2I-Adapter. "),
        ({"model": "union"}, "control[0].type is needed by union: one of pose, depth, canny."),
        ({"model": "canny-a", "type": "depth"}, "control[0].type must be one of canny for canny-a."),
        ({"type": "canny", "preprocessor": "hed"}, "control[0].preprocessor must be one of canny, invert, none; "),
        ({"type": "canny", "start": 0.5, "end": 0.5}, "control[0].start must be less than its end."),
    ],
)  # fmt: skip
def test_what_cannot_be_followed_is_refused_by_its_field(wanted: dict[str, Any], message: str) -> None:
    assert refused(wanted).startswith(message)


def test_a_controlnet_that_is_still_being_read_is_not_refused_as_unknown() -> None:
    def find(name: str) -> ModelSpec:
        raise StillRead(f"The model {name} is still being read.")

    with pytest.raises(ModelStillRead, match="canny-a is still being read"):
        choose_controls([WantedControl(image="file", model="canny-a")], BASE, find, list(HERE.values()))


def test_adapters_of_two_classes_are_not_used_together() -> None:
    assert refused({"type": "canny"}, {"type": "pose"}) == (
        "control: one request takes adapters of one class, these are of ControlNetModel, ControlNetUnionModel."
    )


def test_what_a_class_cannot_be_told_is_refused() -> None:
    takes = frozenset({"controlnet_conditioning_scale"})
    lent = {"controlnet": ("ControlNetModel",)}
    sana = PipelineTask("SanaControlNetPipeline", {"control": "control_image"}, arguments=takes, lent=lent)

    for wanted, message in (
        ([{"type": "canny", "end": 0.5}], "control[0].end must be 1: SanaControlNetPipeline cannot change it."),
        ([{"type": "canny"}, {"type": "canny"}], "control: SanaControlNetPipeline follows one map."),
    ):
        with pytest.raises(BadRequest) as raised:
            check_controls(chosen(*wanted), sana)
        assert str(raised.value) == message


def test_maps_are_brought_to_size_without_being_asked() -> None:
    (control,) = chosen({"type": "canny", "preprocessor": "resize"})

    assert control.preprocessor == "none"
