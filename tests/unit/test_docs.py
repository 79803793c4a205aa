"""The documents match the program: the references are up to date, links and paths exist, and no line is too long."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from scripts import make_api_reference, make_cli_reference, make_dialect_references, make_grafana_dashboard
from server.api.models import DeviceReply, HolderReply, ModelReply
from server.api.openai import chat_fields
from server.api.openai.chat_schema import ChatCompletion
from server.api.openai.completion_schema import Completion
from server.api.openai.image_schema import ImageEdit
from server.api.openai.responses.fields import RESPONSES
from server.api.openai.responses.schema import ResponseBody
from server.api.openai.video_schema import VideoCreation
from server.api.queue import QueueView, RunningReply, WaitingReply
from server.jobs.live_jobs import LiveJobs
from server.service.metrics import Metrics
from tests.support.http.front import front
from tests.support.paths import ROOT

DOCS = [
    *(path for name in ("README", "CHANGELOG", "CONTRIBUTING") if (path := ROOT / f"{name}.md").exists()),
    *sorted((ROOT / "docs").glob("*.md")),
]
CODE_FOLDERS = ("server", "models", "pipelines", "scripts", "tests", "benchmarks", "examples")
LINK = re.compile(r"(?<!\!)\[[^\]]*\]\(([^)\s]+)\)")
URL_OR_IMAGE = re.compile(r"\s*(?:[-*|]\s*)?(?:<?https?://\S+|!\[[^\]]*\]\(\S+\)|<img [^>]*>)\s*")
# A file or folder from the root of the checkout, such as server/job.py or tests/live/; not a part of an address.
PATH = re.compile(rf"(?<![\w./<*-])(?:docs|{'|'.join(CODE_FOLDERS)})(?:/[\w-]+)+(?:(?:\.\w+)+|/)")
LONGEST_LINE = 120  # columns


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def test_the_api_reference_matches_the_routes() -> None:
    generated = make_api_reference.reference(make_api_reference.document())

    assert generated == make_api_reference.PATH.read_text(), "run: python scripts/make_api_reference.py"


def test_the_api_reference_contains_every_route_parameter_and_field() -> None:
    document, text = make_api_reference.document(), make_api_reference.PATH.read_text()
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            assert f"## {method.upper()} {path}\n" in text
            for parameter in operation.get("parameters", ()):
                assert f"\n- `{parameter['name']}` in {parameter['in']}, " in text
    for name in fields(document):
        assert f"\n- `{name}`" in text, name


def fields(node: object) -> set[str]:
    """Returns the names of all fields of bodies and replies, nested ones included.

    The framework's own error types are left out, because no route uses them.
    """
    if isinstance(node, list):
        return set().union(*map(fields, node)) if node else set()
    if not isinstance(node, dict):
        return set()
    inner = [fields(value) for name, value in node.items() if name not in ("HTTPValidationError", "ValidationError")]
    own = node.get("properties")
    return set().union(*inner) | (set(own) if isinstance(own, dict) and "type" in node else set())


@pytest.mark.parametrize("name", make_dialect_references.PAGES)
def test_the_reference_of_a_dialect_matches_its_schema(name: str) -> None:
    page = (ROOT / "docs" / name).read_text()

    assert make_dialect_references.reference(name) == page, "run: python scripts/make_dialect_references.py"


def test_the_reference_of_openais_api_contains_every_field_that_is_known() -> None:
    page = (ROOT / "docs" / "openai.md").read_text()
    done = {
        *ChatCompletion.model_fields,
        *Completion.model_fields,
        *ResponseBody.model_fields,
        *ImageEdit.model_fields,
        *VideoCreation.model_fields,
    }
    others = {*chat_fields.ALIASES, *chat_fields.NOTED, *chat_fields.NEUTRAL, *chat_fields.NEVER, *chat_fields.WARNINGS}
    others |= {*RESPONSES.noted, *RESPONSES.neutral}

    assert [name for name in sorted(done) if f"\n- `{name}`: " not in page] == []
    assert [name for name in sorted(others) if f"`{name}`" not in page] == []


def test_the_clients_that_the_page_names_are_those_that_the_tests_install() -> None:
    table = (ROOT / "docs" / "openai.md").read_text().partition("## What was run against it")[2]
    named = set(re.findall(r"^\| `([^`]+)`[^|]*\| ([\d.]+) \|", table, re.MULTILINE))
    clients = ROOT / "tests" / "clients"
    pinned = set(re.findall(r"^([\w-]+)[^=]*==(\S+)", (clients / "requirements.txt").read_text(), re.MULTILINE))
    pinned |= set(json.loads((clients / "package.json").read_text())["dependencies"].items())

    assert len(named) > 8
    assert named - pinned == set()


def test_the_command_line_reference_matches_the_commands() -> None:
    assert make_cli_reference.reference() == make_cli_reference.PATH.read_text(), (
        "run: python scripts/make_cli_reference.py"
    )


def test_the_dashboard_shows_exactly_the_metrics_of_the_server() -> None:
    dashboard = make_grafana_dashboard.PATH.read_text()
    exported = Metrics(LiveJobs()).text().decode()
    known = {name for name in re.findall(r"^# TYPE (\w+)", exported, re.MULTILINE) if not name.endswith("_created")}
    shown = {re.sub(r"_(bucket|sum|count)$", "", name) for name in re.findall(r"agentname_\w+", dashboard)}

    assert dashboard == make_grafana_dashboard.dashboard(), "run: python scripts/make_grafana_dashboard.py"
    assert shown == known


@pytest.mark.anyio
async def test_replies_about_models_memory_and_queue_have_the_documented_fields(tmp_path: Path) -> None:
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


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_no_line_of_the_documents_is_too_long(path: Path) -> None:
    lines = path.read_text().splitlines()
    too_long = [n for n, line in enumerate(lines, 1) if len(line) > LONGEST_LINE and not URL_OR_IMAGE.fullmatch(line)]

    assert too_long == [], f"lines of more than {LONGEST_LINE} columns"


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_every_path_that_a_document_names_exists(path: Path) -> None:
    named = PATH.findall(path.read_text())

    assert [name for name in named if not (ROOT / name).exists()] == []


def test_every_file_that_the_code_names_exists() -> None:
    sources = [path for folder in CODE_FOLDERS for path in (ROOT / folder).rglob("*.py")]
    named = {(str(path), name) for path in sources for name in PATH.findall(path.read_text())}
    missing = {(path, name) for path, name in named if name.endswith((".py", ".md")) and not (ROOT / name).exists()}

    assert missing == set()
