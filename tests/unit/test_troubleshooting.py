"""The texts that docs/troubleshooting.md quotes are those that the server writes."""

from __future__ import annotations

import re

import pytest

from tests.support.paths import ROOT

DOCUMENT = (ROOT / "docs" / "troubleshooting.md").read_text()
SOURCES = "\n".join(
    path.read_text() for folder in ("server", "models", "pipelines") for path in sorted((ROOT / folder).rglob("*.py"))
)
# The fixed part of each quoted line, as the source spells it.
PHRASES = (
    "Is a server running? Try --port.",
    "Another server uses ",
    "the server process cannot be kept running, giving up",
    " is not a setting.",
    "the job store failed",
    "output not saved",
    "torch does not see the device, leaving",
    "this server sees ",
    " is at ",
    "device  ",
    "the server process ended, starting it again",
    " for models.",
    "job failed",
    "memory leaked",
    "model load failed",
    "failed to load. It is tried again in ",
    "model refused",
    "pull failed",
    "not downloaded yet",
    "model loaded",
    "job started",
    "Missing or invalid API key.",
    "This server does not answer to that Host.",
    "Requests from that Origin are refused.",
    "an address outside this server's own network",
    "webhook refused",
    "webhook failed, trying again",
    ", the limit of this address.",
    " of memory together, those of one API key three ",
    "The body has too many values.",
    "The body arrived too slowly: it may take ",
    "A compressed body is not accepted: send it without Content-Encoding.",
    " here; try: pull ",
    "That name can mean several models. Send the name of one: ",
    " must be ",
    " does not take this input. ",
    " needs more inputs: send ",
    " that its plan allows. Delete ",
)
# Quoted inside a paragraph or at the end of a line.
MORE_PHRASES = (
    "The job store cannot be reached at the moment.",
    "output_not_saved",
    "build of torch has no",
    "or needs a newer driver. Install another build, or set AGENTNAME_DEVICE=cpu.",
    "a CUDA build that sees no GPU: check the driver with nvidia-smi",
    "hung, killed",
    "engine stopped",
    "The device ran out of memory for this job, even alone.",
    "has weights only as pickle (",
    "is gated: accept its terms on the hub, then set HF_TOKEN",
    "the model hub cannot be reached; ",
    "is not on this machine and HF_HUB_OFFLINE forbids downloads",
    "loading_model",
    "gpu_memory",
    "model_not_found",
)


def quoted_lines() -> list[str]:
    """The lines of the document's code blocks, without the indented ones that continue a line."""
    blocks = re.findall(r"^```\n(.*?)^```", DOCUMENT, re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if not line.startswith("    ")]


@pytest.mark.parametrize("phrase", [*PHRASES, *MORE_PHRASES])
def test_a_quoted_phrase_is_in_the_source_and_in_the_document(phrase: str) -> None:
    assert phrase in SOURCES
    assert phrase in re.sub(r"\s+", " ", DOCUMENT) or phrase in DOCUMENT


@pytest.mark.parametrize("line", quoted_lines())
def test_each_quoted_line_holds_a_known_phrase(line: str) -> None:
    assert any(phrase in line for phrase in PHRASES)


def test_no_log_field_is_called_event() -> None:
    """structlog keeps the phrase of a line under that name, so such a field would take its place."""
    assert '{"event":' not in SOURCES
