"""What the documents claim is what the program says: the references are made again, links lead somewhere, metrics exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from scripts import make_api_reference, make_cli_reference, make_grafana_dashboard
from server.api.models import DeviceReply, HolderReply, ModelReply
from server.api.queue import QueueView, RunningReply, WaitingReply
from server.jobs.live_jobs import LiveJobs
from server.service.metrics import Metrics
from tests.support.front import front
from tests.support.paths import ROOT

DOCS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LINK = re.compile(r"(?<!\!)\[[^\]]*\]\(([^)\s]+)\)")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def test_the_api_reference_is_that_of_the_routes() -> None:
    made = make_api_reference.reference(make_api_reference.document())

    assert made == make_api_reference.PATH.read_text(), "run: python scripts/make_api_reference.py"


def test_every_route_and_field_of_the_document_is_in_the_reference() -> None:
    document, text = make_api_reference.document(), make_api_reference.PATH.read_text()
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            assert f"## {method.upper()} {path}\n" in text
            for parameter in operation.get("parameters", ()):
                assert f"| `{parameter['name']}` |" in text
    for name in fields(document):
        assert f"| `{name}` |" in text, name


def fields(node: object) -> set[str]:
    """Of all bodies and replies, wherever they nest; the framework's own error types are used by no route."""
    if isinstance(node, list):
        return set().union(*map(fields, node)) if node else set()
    if not isinstance(node, dict):
        return set()
    inner = [fields(value) for name, value in node.items() if name not in ("HTTPValidationError", "ValidationError")]
    own = node.get("properties")
    return set().union(*inner) | (set(own) if isinstance(own, dict) and "type" in node else set())


def test_the_command_line_reference_is_that_of_the_commands() -> None:
    assert make_cli_reference.reference() == make_cli_reference.PATH.read_text(), (
        "run: python scripts/make_cli_reference.py"
    )


def test_the_dashboard_shows_the_metrics_of_the_server_and_no_others() -> None:
    dashboard = make_grafana_dashboard.PATH.read_text()
    told = Metrics(LiveJobs()).text().decode()
    known = {name for name in re.findall(r"^# TYPE (\w+)", told, re.MULTILINE) if not name.endswith("_created")}
    shown = {re.sub(r"_(bucket|sum|count)$", "", name) for name in re.findall(r"agentname_\w+", dashboard)}

    assert dashboard == make_grafana_dashboard.dashboard(), "run: python scripts/make_grafana_dashboard.py"
    assert shown == known


@pytest.mark.anyio
async def test_models_and_memory_and_queue_say_what_is_documented(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        f.engine.publish(running=[(await f.submit(), 1.0)], queue=[(await f.submit(), "turn", None)])
        model = (await f.get("/api/models")).json()["models"][0]
        device = (await f.get("/api/gpu")).json()["devices"][0]
        queue = (await f.get("/api/queue")).json()

    assert set(model) == set(ModelReply.model_fields)
    assert set(device) == set(DeviceReply.model_fields)
    assert set(device["holders"][0]) == set(HolderReply.model_fields)
    assert set(queue) == set(QueueView.model_fields)
    assert set(queue["running"][0]) == set(RunningReply.model_fields)
    assert set(queue["waiting"][0]) == set(WaitingReply.model_fields)


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_links_between_the_documents_lead_somewhere(path: Path) -> None:
    for link in LINK.findall(path.read_text()):
        if not re.match(r"[a-z]+:", link):
            name, _, anchor = link.partition("#")
            target = path.parent / name if name else path
            assert target.exists(), link
            if anchor:
                headings = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
                assert anchor in [re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings], link
