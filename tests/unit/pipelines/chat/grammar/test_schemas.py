"""The built-in model at temperature 1 keeps to 200 schemas of the keywords that are followed, and to 50 of tools.

The schemas are our own, by the files of the JSON-Schema test suite (`tests/support/schemas`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from models.catalogue import Catalogue
from models.loading.load import load
from models.loading.prompt_reader import PromptReader
from pipelines.chat.tools.json_text import JsonText
from pipelines.chat_interface import ChatRequest, Message, Prompt, PromptOptions
from pipelines.interface import Replied
from tests.support.constrained import schema_of
from tests.support.lanes.chat_play import play
from tests.support.tokenizer_kinds import SMOLLM2

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not SMOLLM2.is_dir(), reason="smollm2-135m is not on this machine"),
]
FOLDER = Path(__file__).parents[4] / "support" / "schemas"
ROWS = 16
MAX_TOKENS = 64
MAX_CUT = 0.15  # share of the replies that are not complete by then


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return Catalogue.open(data_dir=tmp_path_factory.mktemp("data"), cache_dir=SMOLLM2.parents[1]).get("smollm2-135m")


def schemas() -> Iterator[tuple[str, Any]]:
    keywords = json.loads((FOLDER / "keywords.json").read_text(encoding="utf-8"))
    tools = json.loads((FOLDER / "tools.json").read_text(encoding="utf-8"))
    yield from ((f"{keyword} {index}", each) for keyword, some in keywords.items() for index, each in enumerate(some))
    yield from tools.items()


def test_every_reply_parses_and_validates(spec: Any) -> None:
    reader, wanted = PromptReader(), dict(schemas())
    assert len(wanted) >= 250
    messages = [Message("user", "Call the tool with short values.")]

    def request(name: str, seed: int) -> ChatRequest:
        prompt: Prompt = reader.read(spec, messages, PromptOptions(grammar=schema_of(wanted[name])))
        prompt = reader.constrain(spec, prompt)
        assert not prompt.warnings
        return ChatRequest(id=name, prompt=prompt, max_tokens=MAX_TOKENS, temperature=1.0, seed=seed)

    lane = load(replace(spec, max_running=ROWS), device="cpu", cache_bytes=128 << 20)
    updates = play(lane, [request(name, seed) for seed, name in enumerate(wanted)], at_most=20_000)  # type: ignore[arg-type]

    replied = {update.request_id: update for update in updates if isinstance(update, Replied)}
    assert replied.keys() == wanted.keys()
    finished = {name: reply.text for name, reply in replied.items() if reply.finish_reason == "stop"}
    assert not [*wrong(finished, wanted)]
    cut = {name: reply.text for name, reply in replied.items() if name not in finished}
    assert len(cut) <= MAX_CUT * len(wanted), cut
    for text in cut.values():
        JsonText().read(text, 0)  # raises for what no JSON begins with


def wrong(texts: Mapping[str, str], wanted: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The replies that are no JSON or do not match their schema."""
    for name, text in texts.items():
        try:
            valid = jsonschema_rs.validator_for(wanted[name], validate_formats=True).is_valid(json.loads(text))
        except ValueError:
            valid = False
        if not valid:
            yield name, text


def test_the_check_finds_replies_that_are_wrong() -> None:
    wanted = dict(schemas())

    assert [*wrong({"type 0": '"x"', "const 1": "text", "weather": '{"city": "Rome"}'}, wanted)] == [
        ("type 0", '"x"'),
        ("const 1", "text"),
    ]
