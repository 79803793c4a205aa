"""No spec that a checkpoint or models.toml can give makes a route of the models fail, whatever its fields hold."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models.spec import ModelSpec
from server.api import model_details
from server.engine_status import LoadError, ModelStatus
from tests.fakes import FakeCatalogue, spec
from tests.support.checkpoints import safetensors_bytes, stable_diffusion_folder
from tests.support.http.front import Front, front
from tests.support.http.library_front import library, patch

pytestmark = pytest.mark.anyio

# What a value of a TOML file, of a config.json or of a file's header may be; lone surrogates are names of files that
# are no Unicode.
SCALARS = (
    st.text(max_size=5) | st.integers() | st.floats() | st.booleans() | st.dates() | st.datetimes() | st.times()
    | st.just("\udc80") | st.none()
)  # fmt: skip
ANYTHING = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner)
)
PATHS = st.sampled_from([Path("/models/x"), Path("relative"), Path("/models/\udc80")])


def values_of(hint: Any) -> st.SearchStrategy[Any]:
    """Values of a field's type hint, so that a field that is added to the spec is covered without a change here."""
    if dataclasses.is_dataclass(hint):
        hints = get_type_hints(hint)
        return st.builds(hint, **{field.name: values_of(hints[field.name]) for field in dataclasses.fields(hint)})
    if hint is Path:
        return PATHS
    if hint is object:
        return ANYTHING
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin is frozenset:
        return st.frozensets(values_of(arguments[0]), max_size=2)
    if origin is tuple and arguments[-1] is not ...:
        return st.tuples(*map(values_of, arguments))
    if origin is tuple:
        return st.lists(values_of(arguments[0]), max_size=2).map(tuple)
    if origin is not None and issubclass(origin if isinstance(origin, type) else object, Mapping):
        return st.dictionaries(st.text(max_size=3) | st.just("\udc80"), values_of(arguments[1]), max_size=2)
    if arguments:  # a union
        return st.one_of(*map(values_of, arguments))
    return st.from_type(hint)


SPECS = values_of(ModelSpec).map(lambda spec: dataclasses.replace(spec, name="odd", aliases=(), weight_bytes=1))


def strict(text: bytes) -> Any:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(text.decode("utf-8"), parse_constant=refuse)


@pytest.mark.slow
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(odd=SPECS)
async def test_every_route_of_the_models_gives_json_whatever_a_spec_holds(shared_front: Front, odd: ModelSpec) -> None:
    f = shared_front
    f.service.catalogue._specs["odd"] = odd  # type: ignore[attr-defined]  # the fake one
    replies = [
        await f.get("/api/models"),
        await f.get("/api/models/odd", "enterprise"),
        await f.get("/api/models/odd", "admin"),
        await patch(f, "/api/models/odd", {"keepAlive": 5}),
        await f.post("/api/models/odd/load", key="admin"),
        await f.post("/api/models/odd/pin", key="admin"),
        await f.post("/api/models/odd/unpin", key="admin"),
        await f.post("/api/models/odd/unload", key="admin"),
        await f.get("/v1/models"),
        await f.get("/v1/models/odd"),
        await f.get("/sdapi/v1/sd-models"),
        await f.get("/sdapi/v1/samplers"),
    ]

    refuses = {400, 404} if odd.type == "adapter" else set()  # it cannot be loaded, pinned or listed by itself
    assert {reply.status_code for reply in replies} <= {200} | refuses, [reply.text for reply in replies]
    for reply in replies:
        strict(reply.content)
    if odd.path is not None:  # a checkpoint that is not there yet has no path to tell
        assert str(odd.path) not in replies[1].text or str(odd.path) in (odd.source, *map(str, odd.load.embeddings))


@pytest.fixture
async def shared_front(tmp_path: Path) -> Any:
    async with front(tmp_path, catalogue=FakeCatalogue(spec("odd", "image"))) as f:
        yield f


def test_each_field_of_a_spec_is_shown_or_hidden_on_purpose() -> None:
    listed = [*model_details.VALUES, *model_details.TABLES, *model_details.ELSEWHERE, *model_details.HIDDEN]

    assert sorted(listed) == sorted(field.name for field in dataclasses.fields(ModelSpec))


async def test_a_model_with_embeddings_is_added_shown_and_changed(tmp_path: Path) -> None:
    folder, word = stable_diffusion_folder(tmp_path / "a"), tmp_path / "easynegative.safetensors"
    (folder / "text_encoder").mkdir()
    (folder / "text_encoder" / "config.json").write_text('{"hidden_size": 32}')
    word.write_bytes(safetensors_bytes({"emb_params": ("F32", [1, 32], 128)}))
    async with library(tmp_path) as f:
        added = await f.post("/api/models", {"source": str(folder), "load": {"embeddings": [str(word)]}}, "admin")
        shown = await f.get("/api/models/a")
        changed = await patch(f, "/api/models/a", {"defaults": {"steps": 3}})

    assert [added.status_code, shown.status_code, changed.status_code] == [200] * 3, added.text
    assert shown.json()["values"]["load.embeddings"] == [str(word)]


async def test_only_an_admin_reads_the_librarys_own_error_of_a_failed_load(tmp_path: Path) -> None:
    error = LoadError("The model painter failed to load: its files do not fit its pipeline.", "ValueError: /models/x")
    status = ModelStatus("painter", "failed", 0, 0, "unproven", 0, None, retry_in_s=9.0, load_error=error)
    async with front(tmp_path) as f:
        before = (await f.get("/api/models/painter", "admin")).json()["failure"]
        f.engine.publish(models=[status])
        admin, other = [(await f.get("/api/models/painter", key)).json() for key in ("admin", "enterprise")]

    assert before is None
    assert admin["failure"] == {"message": error.message, "detail": error.detail}
    assert other["failure"] == {"message": error.message}


async def test_the_notes_of_a_checkpoint_and_of_its_load_are_listed_once_each(tmp_path: Path) -> None:
    odd = spec("odd", "image", notes=("Its file says v-prediction.",))
    status = ModelStatus("odd", "resident", 1, 0, "on", 0, None, notes=("Its file says v-prediction.", "No EMA."))
    async with front(tmp_path, catalogue=FakeCatalogue(odd)) as f:
        f.engine.publish(models=[status])
        listed = (await f.get("/api/models")).json()["models"][0]["notes"]
        shown = (await f.get("/api/models/odd")).json()["notes"]

    assert listed == shown == ["Its file says v-prediction.", "No EMA."]


@pytest.mark.parametrize(
    "line",
    ["defaults.guidance_scale = nan", "defaults.guidance_scale = inf", "keep_alive_s = nan", "keep_alive_s = -inf",
     "call.x = 2026-01-01", "call.x = [nan]"],
)  # fmt: skip
async def test_a_value_that_is_no_number_is_refused_in_models_toml(tmp_path: Path, line: str) -> None:
    stable_diffusion_folder(tmp_path / "a")
    async with library(tmp_path) as f:
        (tmp_path / "models.toml").write_text(f'[models.a]\nsource = "a"\n{line}\n')
        reply = await f.post("/api/models", {"source": str(tmp_path / "a"), "name": "b"}, "admin")

    assert reply.status_code == 400
    assert line.split(" ")[0].split(".")[-1] in reply.json()["error"]


async def test_a_model_that_is_kept_for_ever_is_listed_with_minus_one(tmp_path: Path) -> None:
    async with front(tmp_path, catalogue=FakeCatalogue(spec("odd", "image", keep_alive_s=math.inf))) as f:
        listed = (await f.get("/api/models")).json()["models"][0]["keepAliveSeconds"]

    assert listed == -1
