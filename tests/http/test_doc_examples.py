"""Runs the examples of the pages about the API's dialects as a reader would: from top to bottom, block after block.

How a page writes its examples:

- Blocks fenced as ```python, ```js and ```sh are run; those of another language, or of none, are only shown. All
  blocks of one language on a page are one program, so that a block may use what an earlier one has imported or named.
- A block that cannot run here has the line `<!-- not run: REASON -->` right before its fence.
- `http://localhost:3001` stands for the server and `an_…` for a key. The models are `MODELS` below.
- python has the packages of tests/clients/requirements.txt, js those of tests/clients/package.json (as an ES module:
  each import once, `await` anywhere), sh has curl, which fails here when the server refuses the request.

The engine is `tests/support/http/obliging_engine.py`: it calls each offered tool once, keeps to schemas and otherwise
says what it was told. Chats, pictures and clips are done at once.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from models.embedding_layout import EmbeddingLayout
from models.spec import Defaults, Limits
from tests.fakes import FakeCatalogue, spec
from tests.support.http.client_programs import run_source
from tests.support.http.front import front
from tests.support.http.http_front import finish_jobs, listening
from tests.support.http.obliging_engine import oblige
from tests.support.http.picture_doors import EDITS, TEXT, painter
from tests.support.paths import ROOT

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

PAGES = ("openai.md", "anthropic.md", "ollama.md")
MODELS = FakeCatalogue(
    spec("smollm2-135m", "chat", defaults=Defaults(max_tokens=64), limits=Limits(context_tokens=8192)),
    spec(
        "all-minilm-l6-v2", "embedding",
        embedding=EmbeddingLayout(dimensions=4, pooling=("mean",)), limits=Limits(context_tokens=256),
    ),
    painter("tiny-scenes", TEXT),
    painter("flux.2-klein-4b", TEXT, EDITS),
    spec(
        "tiny-motion", "video",
        defaults=Defaults(steps=4, width=64, height=32, num_frames=8, fps=8), limits=Limits(size_multiple=8),
    ),
)  # fmt: skip
BLOCK = re.compile(r"(?P<before>[^\n]*)\n+```(?P<language>\w+)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
NOT_RUN = re.compile(r"<!-- not run: .+ -->")
KEY = "an_…"
ADDRESS = "http://localhost:3001"


def programs() -> list[tuple[str, str]]:
    """Returns page and language of each program."""
    found = {
        (page, language)
        for page in PAGES
        if (ROOT / "docs" / page).exists()
        for language in ("python", "js", "sh")
        if program((ROOT / "docs" / page).read_text(), language)
    }
    return sorted(found)


def program(text: str, language: str) -> str:
    """Returns the blocks of a language, at the lines where the page has them, so that errors name those."""
    lines = [""] * text.count("\n")
    for block in BLOCK.finditer(text):
        if block["language"] == language and not NOT_RUN.fullmatch(block["before"]):
            first = text.count("\n", 0, block.start("code"))
            code = block["code"].splitlines()
            lines[first : first + len(code)] = code
    return "\n".join(lines) if any(lines) else ""


@pytest.mark.parametrize(("page", "language"), programs())
async def test_the_examples_of_a_page_run_as_one_program(page: str, language: str, tmp_path: Path) -> None:
    if language == "sh" and shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    async with front(tmp_path, catalogue=MODELS) as f, listening(f) as address:
        oblige(f)
        finish_jobs(f)
        source = (
            program((ROOT / "docs" / page).read_text(), language)
            .replace(ADDRESS, address)
            .replace(KEY, f.keys["enterprise"])
        )
        await run_source(source, language)


def test_the_address_and_the_key_of_examples_are_written_alike() -> None:
    for page, language in programs():
        text = program((ROOT / "docs" / page).read_text(), language)
        assert set(re.findall(r"https?://[\w.]+:\d+", text)) <= {ADDRESS}, page
        assert set(re.findall(r"\ban_[\w…]*", text)) <= {KEY}, page


def test_a_program_has_the_blocks_of_its_language_at_their_lines() -> None:
    page = "\n".join(
        [
            "# Page", "", "```python", "a = 1", "```", "", "```js", "let b;", "```", "",
            "<!-- not run: it needs a GPU -->", "```python", "c = 2", "```", "", "```python", "print(a)", "```", "",
        ]
    )  # fmt: skip

    assert program(page, "python").splitlines() == ["", "", "", "a = 1", *[""] * 12, "print(a)"]
    assert program(page, "sh") == ""
