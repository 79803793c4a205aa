"""The items of a response's input, as clients write them: which messages they become, and what is refused where."""

from __future__ import annotations

import base64
import io
import time
from typing import Any

import pytest
from PIL import Image

from pipelines.chat_interface import Message, ToolCall
from server.api.openai.responses.item_messages import messages_of
from server.api.openai.responses.items import MAX_ITEMS, read_items
from server.errors import BadRequest

QUESTION = {"role": "user", "content": "Hi"}
CALL = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": '{"a": 1}'}
RESULT = {"type": "function_call_output", "call_id": "c1", "output": "42"}
MADE = ToolCall("c1", "f", '{"a": 1}')


def messages(*items: Any) -> list[Message]:
    read = read_items(list(items))
    return messages_of((item, f"input[{index}]") for index, item in enumerate(read))


def said(text: str) -> dict[str, Any]:
    return {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": text}]}


def thought(text: str, **fields: Any) -> dict[str, Any]:
    return {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": text}]} | (
        fields
    )


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        ([QUESTION], [Message("user", "Hi")]),
        (
            [{"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "A"}, "B"]}, QUESTION],
            [Message("system", "A\nB"), Message("user", "Hi")],
        ),
        ([{"role": "system", "content": "A"}], [Message("system", "A")]),
        ([{"role": "assistant", "content": "A"}], [Message("assistant", "A")]),
        ([{"role": "user", "content": [{"type": "text", "text": "A"}]}], [Message("user", "A")]),
        ([{"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}], [Message("assistant", "No.")]),
        (
            [QUESTION, thought("Hm."), said("Let me see."), CALL, RESULT],
            [
                Message("user", "Hi"),
                Message("assistant", "Let me see.", thinking="Hm.", tool_calls=(MADE,)),
                Message("tool", "42", name="f", tool_call_id="c1"),
            ],
        ),
        (
            [CALL, {**CALL, "call_id": "c2"}, RESULT, {**RESULT, "call_id": "c2"}],
            [
                Message("assistant", "", tool_calls=(MADE, ToolCall("c2", "f", '{"a": 1}'))),
                Message("tool", "42", name="f", tool_call_id="c1"),
                Message("tool", "42", name="f", tool_call_id="c2"),
            ],
        ),
        ([said("A"), said("B")], [Message("assistant", "A"), Message("assistant", "B")]),
        ([CALL, said("B")], [Message("assistant", "B", tool_calls=(MADE,))]),
        (
            [said("A"), thought("Hm."), said("B")],
            [Message("assistant", "A"), Message("assistant", "B", thinking="Hm.")],
        ),
        (
            [thought("", content=None, summary=[{"type": "summary_text", "text": "Short."}]), said("A")],
            [Message("assistant", "A", thinking="Short.")],
        ),
        (
            [{"type": "reasoning", "summary": [], "content": None, "encrypted_content": "gAAA"}, said("A")],
            [Message("assistant", "A")],
        ),
        ([{**CALL, "arguments": {"a": 1}}], [Message("assistant", "", tool_calls=(MADE,))]),
        ([{**CALL, "arguments": None}], [Message("assistant", "", tool_calls=(ToolCall("c1", "f", "{}"),))]),
        (
            [{**RESULT, "output": [{"type": "input_text", "text": "4"}, {"type": "input_text", "text": "2"}]}],
            [Message("tool", "4\n2", tool_call_id="c1")],
        ),
        ([{"role": "user", "content": None, "id": 5, "status": [], "extra": {"a": 1}}], [Message("user", "")]),
    ],
)
def test_items_become_messages(items: list[Any], expected: list[Message]) -> None:
    assert messages(*items) == expected


def test_a_turn_of_thousands_of_items_is_put_together_once() -> None:
    n, text = 2000, "x" * 20_000
    items = [each for i in range(n) for each in (said(text), CALL | {"call_id": f"c{i}"})]
    began = time.process_time()
    [turn] = messages(*items)

    assert turn.content == "\n".join([text] * n)
    assert [call.id for call in turn.tool_calls] == [f"c{i}" for i in range(n)]
    assert time.process_time() - began < 2  # joined at each item it would take a minute


def test_pictures_of_the_user_and_of_tools_stand_at_their_places() -> None:
    file = io.BytesIO()
    Image.new("RGB", (2, 2)).save(file, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    picture = {"type": "input_image", "image_url": url, "detail": "low"}
    as_in_chats = {"type": "image_url", "image_url": {"url": url}}
    asked, shown = messages(
        {"role": "user", "content": [{"type": "input_text", "text": "Look:"}, picture, as_in_chats]},
        {**RESULT, "output": [picture]},
    )

    assert [(image.at, image.data == file.getvalue()) for image in asked.images] == [(5, True), (5, True)]
    assert (shown.role, len(shown.images)) == ("tool", 1)


@pytest.mark.parametrize(
    ("items", "place"),
    [
        ([5], "input[0] must be an object"),
        ([QUESTION, {"type": "web_search_call"}], "input[1]: an item of the type web_search_call is not supported"),
        ([{"type": "<script>"}], "input[0]: an item is not supported"),
        ([{"role": "tool", "content": "A"}], "input[0].role must be one of"),
        ([{"role": "user", "content": 5}], "input[0].content must be text or a list of parts"),
        ([{"role": "user", "content": [{"type": "input_file"}]}], "input[0].content[0]: a part of the type input_file"),
        ([{"role": "user", "content": [{"type": "input_text"}]}], "input[0].content[0].text must be text"),
        ([{"role": "user", "content": "\ud800"}], "input[0].content must be text without"),
        ([{"role": "system", "content": [{"type": "input_image"}]}], "input[0].content[0]: a part of the type"),
        (
            [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}],
            "input[0].content[0].file_id must be the id of a picture",
        ),
        (
            [{"role": "user", "content": [{"type": "input_image", "image_url": "ftp://x"}]}],
            "input[0].content[0].image_url must be",
        ),
        ([{**CALL, "name": None}], "input[0].name must be"),
        ([{**CALL, "call_id": None}], "input[0].call_id must be"),
        ([{**RESULT, "output": {"a": 1}}], "input[0].output must be text or a list of parts"),
        ([thought("A", content="A")], "input[0].content must be a list of parts"),
        ([{"type": "item_reference"}], "input[0].id must be"),
        ([QUESTION] * (MAX_ITEMS + 1), "input must be text, or a list"),
    ],
)
def test_an_item_that_cannot_be_read_is_refused_at_its_place(items: list[Any], place: str) -> None:
    with pytest.raises(BadRequest) as error:
        messages(*items)

    assert error.value.message.startswith(place)
    assert error.value.param == "input"
