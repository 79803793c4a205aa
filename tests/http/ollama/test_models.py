"""Ollama's lists of models, loading and keeping them, embeddings, and what is done in another way here."""

from __future__ import annotations

import base64
import math
from pathlib import Path
from typing import Any

import pytest

from models.catalogue import Catalogue
from models.spec import Defaults, Limits
from server.engine_status import ModelStatus
from server.protocol import KeepAlive, LoadModel, UnloadModel
from tests.fakes import GIB, spec, vector_of, with_embedder
from tests.support.http.front import Front, front

pytestmark = pytest.mark.anyio

TALKER = spec("talker", "chat", defaults=Defaults(temperature=0.6), limits=Limits(context_tokens=8192))
CATALOGUE = Catalogue([TALKER, spec("painter", "image")])
RESIDENT = ModelStatus("talker", "resident", 2 * GIB, GIB, "on", 0, 60.0)


@pytest.mark.parametrize("name", ["talker", "talker:latest", "Talker:LATEST"])
async def test_a_name_means_the_same_with_and_without_its_tag(tmp_path: Path, name: str) -> None:
    async with front(tmp_path, catalogue=CATALOGUE) as f:
        chat = await f.post(
            "/api/chat", {"model": name, "stream": False, "messages": [{"role": "user", "content": "x"}]}
        )
        shown = await f.post("/api/show", {"name": name})

    assert (chat.json()["model"], shown.status_code) == ("talker:latest", 200)


async def test_the_models_that_write_text_are_listed_and_described(tmp_path: Path) -> None:
    async with front(tmp_path, catalogue=CATALOGUE) as f:
        tags = (await f.get("/api/tags")).json()["models"]
        show = (await f.post("/api/show", {"model": "talker"})).json()
        unknown = await f.post("/api/show", {"model": "none"})
        painter = await f.post("/api/show", {"model": "painter"})
        version = (await f.get("/api/version")).json()

    assert [(model["name"], model["model"], model["size"]) for model in tags] == [("talker:latest",) * 2 + (GIB,)]
    assert len(tags[0]["digest"]) == 64
    assert show["model_info"] == {
        "general.architecture": "chat", "general.basename": "talker", "chat.context_length": 8192,
    }  # fmt: skip
    assert show["capabilities"] == ["completion", "tools"]
    assert "temperature 0.6" in show["parameters"].splitlines()
    assert unknown.status_code == 404
    assert (painter.status_code, "painter is for image" in painter.json()["error"]) == (400, True)
    assert version.keys() == {"version", "agentname"}


async def test_loaded_models_are_listed_with_the_time_of_their_unloading(tmp_path: Path) -> None:
    async with front(tmp_path, catalogue=CATALOGUE) as f:
        nothing = (await f.get("/api/ps")).json()
        f.engine.publish(models=[RESIDENT])
        (model,) = (await f.get("/api/ps")).json()["models"]

    assert nothing == {"models": []}
    assert (model["name"], model["size"], model["size_vram"]) == ("talker:latest", 3 * GIB, 0)
    assert model["expires_at"].startswith(("2026-11-24T09:00:59", "2026-11-24T09:01:00"))
    assert model["context_length"] == 8192


async def test_a_config_of_the_checkpoint_tells_its_architecture(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama", "hidden_size": 576}')
    named = spec("named", "chat", limits=Limits(context_tokens=8192))
    catalogue = Catalogue([type(named)(name="named", type="chat", path=folder, source="x", limits=named.limits)])
    async with front(tmp_path, catalogue=catalogue) as f:
        show = (await f.post("/api/show", {"model": "named"})).json()

    assert (show["details"]["family"], show["model_info"]["llama.embedding_length"]) == ("llama", 576)


# Loading


async def sent(f: Front, path: str, body: dict[str, Any], key: str) -> tuple[Any, list[Any]]:
    f.engine.sent.clear()
    reply = await f.post(path, {"model": "talker", **body}, key)
    assert reply.status_code == 200, reply.text
    return reply.json(), list(f.engine.sent)


@pytest.mark.parametrize(("path", "body"), [("/api/generate", {}), ("/api/chat", {"messages": []})])
async def test_a_request_without_a_question_loads_or_unloads_the_model(
    tmp_path: Path, path: str, body: dict[str, Any]
) -> None:
    async with front(tmp_path) as f:
        loaded, load = await sent(f, path, body, "admin")
        kept, keep = await sent(f, path, {**body, "keep_alive": "10m"}, "admin")
        unloaded, unload = await sent(f, path, {**body, "keep_alive": 0}, "admin")
        by_others, nothing = await sent(f, path, {**body, "keep_alive": 0}, "pro")

    assert (loaded["done"], loaded["done_reason"], load) == (True, "load", [LoadModel("talker", GIB)])
    assert (kept["done_reason"], keep) == ("load", [LoadModel("talker", GIB), KeepAlive("talker", 600.0)])
    assert (unloaded["done_reason"], unload) == ("unload", [UnloadModel("talker")])
    assert (by_others["done_reason"], nothing) == ("unload", [])


@pytest.mark.parametrize(
    ("keep_alive", "seconds"),
    [
        ("6m", 360.0), ("1h30m", 5400.0), ("1.5s", 1.5), ("500ms", 0.5), ("90", 90.0), (90, 90.0), (1.5, 1.5),
        (0, 0.0), ("0s", 0.0), (-1, math.inf), ("-1m", math.inf), ("-1", math.inf), (10**30, math.inf),
        ("99999h", math.inf),
    ],
)  # fmt: skip
@pytest.mark.parametrize("streamed", [True, False])
async def test_a_keep_alive_is_set_once_the_reply_is_there(
    tmp_path: Path, keep_alive: Any, seconds: float, streamed: bool
) -> None:
    body = {"prompt": "Hi", "stream": streamed, "keep_alive": keep_alive}
    async with front(tmp_path) as f:
        job_ids: list[str] = []
        f.engine.reply = lambda request: job_ids.append(request.id) or f"sent so far: {len(f.engine.sent)}"
        for _ in range(2):  # the second one changes nothing
            reply = await f.post("/api/generate", {"model": "talker", **body}, "admin")
            assert reply.status_code == 200
            assert "sent so far: " in reply.text

        assert f.engine.sent == [KeepAlive("talker", seconds)]


async def test_a_keep_alive_of_a_key_that_may_not_is_no_error(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        body = {"model": "talker", "prompt": "Hi", "keep_alive": "5m"}
        reply = await f.post("/api/generate", body, "pro")

        assert (reply.status_code, f.engine.sent) == (200, [])


# Keys


@pytest.mark.parametrize("path", ["/api/tags", "/api/version", "/api/ps"])
async def test_a_key_can_be_the_password_of_an_address(tmp_path: Path, path: str) -> None:
    async with front(tmp_path) as f:
        basic = base64.b64encode(f"ollama:{f.keys['pro']}".encode()).decode()
        known = await f.client.get(path, headers={"authorization": f"Basic {basic}"})
        chat = await f.client.post(
            "/api/chat", json={"model": "talker", "messages": []}, headers={"authorization": f"Basic {basic}"}
        )
        wrong = await f.client.get(path, headers={"authorization": "Basic b2xsYW1hOng="})
        elsewhere = await f.client.get("/api/models", headers={"authorization": f"Basic {basic}"})

    assert [reply.status_code for reply in (known, chat, wrong, elsewhere)] == [200, 200, 401, 401]


# Embeddings


async def test_texts_are_embedded_in_both_forms(tmp_path: Path) -> None:
    async with front(tmp_path, catalogue=with_embedder()) as f:
        two = (await f.post("/api/embed", {"model": "embedder", "input": ["ab", "c"], "keep_alive": "5m"})).json()
        one = (await f.post("/api/embed", {"model": "embedder", "input": "ab", "dimensions": 2})).json()
        older = (await f.post("/api/embeddings", {"model": "embedder", "prompt": "ab"})).json()
        nothing = (await f.post("/api/embed", {"model": "embedder", "input": []})).json()

    assert [len(vector) for vector in two["embeddings"]] == [len(vector_of([1]))] * 2
    assert (two["model"], two["prompt_eval_count"]) == ("embedder:latest", 3)
    assert two["total_duration"] > 0
    assert len(one["embeddings"]) == 1
    assert older["embedding"] == pytest.approx(vector_of([97, 98]), abs=1e-6)
    assert nothing["embeddings"] == []


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"model": "embedder"}, 400),
        ({"model": "embedder", "input": [5]}, 400),
        ({"model": "embedder", "input": ["a", ""]}, 400),
        ({"model": "embedder", "input": "a\0"}, 400),
        ({"model": "embedder", "input": "a", "keep_alive": "x"}, 400),
        ({"model": "talker", "input": "a"}, 400),
        ({"model": "none", "input": "a"}, 404),
    ],
)
async def test_texts_that_cannot_be_embedded_are_refused(tmp_path: Path, body: dict[str, Any], status: int) -> None:
    async with front(tmp_path, catalogue=with_embedder()) as f:
        reply = await f.post("/api/embed", body)

    assert (reply.status_code, reply.json().keys()) == (status, {"error", "code"})


# What is done in another way


async def test_addresses_of_ollamas_registry_say_how_it_is_done_here(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        replies = [await f.post(f"/api/{name}", {"model": "x"}) for name in ("pull", "create", "copy", "push")]
        request = f.client.build_request("DELETE", "/api/delete", json={"model": "x"}, headers=f.auth("pro"))
        replies.append(await f.client.send(request))

    assert [reply.status_code for reply in replies] == [400] * 5
    assert "agentname pull" in replies[0].json()["error"]
