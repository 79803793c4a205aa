"""The texts of a conversation, and the placeholders that stand for them when a template is rendered alone.

A skeleton is a rendering with placeholders. It shows which texts the template uses, what it puts around them, and which
special tokens are its own. Pure functions; any thread.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.chat.templates.message_forms import with_texts
from pipelines.chat_interface import Message

# Private-use characters around a text's index.
PLACEHOLDER = "\ue000{}\ue001"
PLACEHOLDERS = re.compile("\ue000([0-9]+)\ue001")
MAX_SEARCHES = 16  # through the whole prompt for texts that are not where they are expected


@dataclass(frozen=True, slots=True)
class Text:
    text: str
    message: int  # its index
    must_show: bool  # a template that does not show it has dropped it


@dataclass(frozen=True, slots=True)
class Skeleton:
    messages: tuple[Message, ...]  # with placeholders
    texts: tuple[Text, ...]  # by the number in their placeholder


def skeleton_of(messages: Sequence[Message]) -> Skeleton:
    texts: list[Text] = []

    def placeholder(text: str, message: int, must_show: bool) -> str:
        texts.append(Text(text, message, must_show))
        return PLACEHOLDER.format(len(texts) - 1)

    return Skeleton(tuple(with_texts(messages, placeholder)), tuple(texts))


def dropped(rendering: str, texts: Sequence[Text]) -> frozenset[int]:
    """Returns the indices of the messages of which this rendering of the skeleton does not show all."""
    shown = {int(index) for index in PLACEHOLDERS.findall(rendering)}
    return frozenset(text.message for i, text in enumerate(texts) if text.must_show and i not in shown)


def filled(rendering: str, texts: Sequence[str]) -> str:
    return PLACEHOLDERS.sub(lambda match: texts[int(match[1])], rendering)


def changed(rendering: str, prompt: str, texts: Sequence[Text], messages: Sequence[Message]) -> frozenset[int]:
    """Returns the indices of the messages that the template did not show as they are.

    rendering: of the skeleton; prompt: of the texts. White space at either end of a text may be missing, and so may
    what an assistant thought before it answered, in its own tags.
    """
    if filled(rendering, [each.text for each in texts]) == prompt:
        return frozenset()
    if filled(rendering, [each.text.strip() for each in texts]) == prompt:
        return frozenset()
    found: set[int] = set()
    position, searches = 0, 0
    for match in PLACEHOLDERS.finditer(rendering):
        text = texts[int(match[1])]
        if not text.must_show:
            continue
        core = text.text.strip()
        if messages[text.message].role == "assistant":
            core = core.rpartition("</think>")[2].strip()
        at = prompt.find(core, position)
        if at < 0:
            searches += 1
            in_json = json.dumps(core, ensure_ascii=False)[1:-1]
            if searches > MAX_SEARCHES or not (core in prompt or in_json in prompt):
                found.add(text.message)
        else:
            position = at + len(core)
    return frozenset(found)
