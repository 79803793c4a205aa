"""Finds the form in which a chat template shows all messages, and renders them in it. Any thread; no torch.

Each form is tried with placeholders first (see `skeleton`), which costs little however long the texts are.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TypeAlias

from pipelines.chat.prompts.skeleton import PLACEHOLDERS, Skeleton, changed, dropped, filled, skeleton_of
from pipelines.chat.prompts.special_tokens import SpecialTokens, broken, mark_for
from pipelines.chat.templates.chat_template import ChatTemplate, TemplateFailed, readable
from pipelines.chat.templates.message_forms import Form, Tools, forms, turns, with_texts
from pipelines.chat_interface import Message, PromptRefused

MAX_RENDERED = 1_000_000  # messages, over all forms that are tried: about 10 s
MIN_FORMS = 8
REFUSES = "This model's chat template refuses these messages: {}"
FAILS = "This model's chat template fails on these messages."
REWRITES = (
    "This model's chat template rewrites the last message, so that it cannot be continued. Set continue_final_message "
    "to false, or end with another message."
)
HIDES_PICTURES = "This model's chat template does not show all pictures of these messages."
LEFT_OUT = "The model's chat template left out or changed a part of a message of the {}."
CONTINUED = "\ue000continued\ue001"  # stands for the content that is continued, in every rendering
THINK_BLOCK = re.compile(r"<think>\s*(</think>\s*)?\Z")

Change: TypeAlias = Callable[[str, bool], str]  # of a text, and whether the assistant wrote it


@dataclass(frozen=True, slots=True)
class Rendering:
    text: str  # the prompt
    marked: str | None  # the prompt with marks in spelled-out markup, where the template needed them to show all texts
    mark: str
    skeleton: str  # the prompt with placeholders
    opening: str  # the prompt behind the last message that is not the assistant's
    warnings: tuple[str, ...]
    texts: tuple[str, ...]  # that the client wrote
    again: Callable[[Change], str]  # renders with each text changed; raises `TemplateFailed`

    def expanded(self, image: str, shown: Sequence[str], specials: SpecialTokens) -> Rendering:
        """Puts what stands for each picture into the place of the token that the template wrote for it.

        image: that token, of which a client's texts may have more.
        """

        def expand(text: str) -> str:
            first, *others = text.split(image)
            return first + "".join(made + text for made, text in zip(shown, others, strict=True))

        again, mark = self.again, self.mark
        marked = self.marked
        if marked is None and any(image in text for text in self.texts):
            marked = again(lambda text, _: broken(text, specials.texts, mark))
        return replace(
            self,
            text=expand(self.text) if marked is None else self.text,  # of no use beside `marked`
            marked=None if marked is None else expand(marked),
            skeleton=expand(self.skeleton),
            again=lambda change: expand(again(change)),
        )

    def extended(self, more: str) -> Rendering:
        again = self.again
        return replace(
            self,
            text=self.text + more,
            marked=None if self.marked is None else self.marked + more,
            skeleton=self.skeleton + more,
            opening=self.opening + more,
            again=lambda change: again(change) + more,
        )


class Renderer:
    def __init__(
        self,
        template: ChatTemplate,
        specials: SpecialTokens,
        messages: Sequence[Message],
        variables: Mapping[str, object],
        *,
        continues: bool,
        image: str = "",
        mark: str = "",
    ) -> None:
        """continues: the last message is the beginning of the reply. image: the token that stands for a picture. mark:
        breaks special tokens in the variables, none of which the messages hold.
        """
        self._template = template
        self._specials = specials
        self._messages = messages
        self._variables = variables
        self._continues = continues
        self._image = image
        self._mark = mark
        self._n_images = sum(len(message.images) for message in messages)
        self._skeleton: Skeleton = skeleton_of(messages)
        self._with_tools = {i for i, message in enumerate(messages) if message.tool_calls or message.role == "tool"}
        self._reasons: list[str] = []  # what the template says of the forms that it refused, without clients' text
        self._details: list[str] = []

    def render(self) -> Rendering:
        """Returns the first form that shows all messages; if none does, the one that leaves out the fewest.

        Raises `PromptRefused` when the template renders none.
        """
        partial: list[tuple[int, Form, str]] = []
        hides_tools: dict[Tools, Form] = {}  # forms that show all but calls and results
        for form in islice(forms(self._messages), max(MIN_FORMS, MAX_RENDERED // len(self._messages))):
            hiding = hides_tools.get(form.tools)
            if hiding is not None and form not in (  # no other details of calls make a template show them
                replace(hiding, arguments_as_text=True),
                replace(hiding, ids="named"),
            ):
                continue
            skeleton = self._of_placeholders(form)
            if skeleton is None:
                continue
            if self._n_images and skeleton.count(self._image) != self._n_images:
                self._details.append(HIDES_PICTURES)
                continue
            left_out = dropped(skeleton, self._skeleton.texts)
            if left_out:
                partial.append((len(left_out), form, skeleton))
                if left_out <= self._with_tools:
                    hides_tools.setdefault(form.tools, form)
            elif (found := self._finished(form, skeleton)) is not None:
                return found
        for _, form, skeleton in sorted(partial, key=lambda each: each[0]):
            if (found := self._finished(form, skeleton)) is not None:
                return found
        raise self._refusal()

    def _of_placeholders(self, form: Form) -> str | None:
        try:
            return self._rendered(self._skeleton.messages, form)
        except TemplateFailed as error:
            self._details.append(error.detail)
            self._reasons.append(self._without_clients_text(error.reason))
            return None

    def _rendered(self, messages: Sequence[Message], form: Form) -> str:
        if not self._continues:
            return self._template.render(turns(messages, form), self._variables, with_opening=True)
        *others, last = messages
        begun = turns([*others, replace(last, content=CONTINUED)], form)
        head, found, tail = self._template.render(begun, self._variables, with_opening=False).rpartition(CONTINUED)
        if not found or PLACEHOLDERS.search(tail):
            raise TemplateFailed("", REWRITES)
        if self._messages[-1].content.lstrip().startswith("<think>"):
            head = THINK_BLOCK.sub("", head)  # the message has its own
        return head + last.content

    def _finished(self, form: Form, skeleton: str) -> Rendering | None:
        """Returns the rendering of the texts themselves, None when the template refuses these."""
        texts = tuple(text.text for text in self._skeleton.texts)
        mark = self._mark or mark_for(texts)
        left_out = dropped(skeleton, self._skeleton.texts)

        def again(change: Change) -> str:
            def of_message(text: str, i: int, must_show: bool) -> str:
                return change(text, self._messages[i].role == "assistant")

            return self._rendered(with_texts(self._messages, of_message), form)

        def without_markup(text: str, is_assistants: bool) -> str:
            return broken(text, self._specials.texts if is_assistants else self._specials.texts_and_markup, mark)

        text, lost = self._checked(lambda: self._rendered(self._messages, form), skeleton)
        marked: str | None = None
        if text is None or lost:  # the template looks into the texts, where a client spelled out its markup
            unmarked, still_lost = self._checked(lambda: again(without_markup), skeleton, mark)
            if unmarked is not None and (text is None or len(still_lost) < len(lost)):
                text, lost, marked = unmarked.replace(mark, ""), still_lost, unmarked
        if text is None:
            return None
        if marked is None and self._mark and self._mark in text:
            text, marked = text.replace(mark, ""), text
        roles = dict.fromkeys(self._messages[i].role for i in sorted(left_out | lost))
        return Rendering(
            text=text,
            marked=marked,
            mark=mark,
            skeleton=skeleton,
            opening=self._opening(skeleton, texts),
            warnings=(*form.warnings, *(LEFT_OUT.format(role) for role in roles)),
            texts=texts,
            again=again,
        )

    def _checked(self, render: Callable[[], str], skeleton: str, mark: str = "") -> tuple[str | None, frozenset[int]]:
        """Returns the rendering, and the messages that it does not show as they are."""
        try:
            text = render()
        except TemplateFailed as error:
            self._details.append(error.detail)
            self._reasons.append(error.reason if error.reason in self._template.constants else "")
            return None, frozenset()
        plain = text.replace(mark, "") if mark else text
        return text, changed(skeleton, plain, self._skeleton.texts, self._messages)

    def _opening(self, skeleton: str, texts: Sequence[str]) -> str:
        ends = [
            match.end()
            for match in PLACEHOLDERS.finditer(skeleton)
            if self._messages[self._skeleton.texts[int(match[1])].message].role != "assistant"
        ]
        return filled(skeleton[ends[-1] if ends else 0 :], texts)

    def _without_clients_text(self, reason: str) -> str:
        for value in self._variables.values():
            reason = reason.replace(value, "…") if isinstance(value, str) and value else reason
        return PLACEHOLDERS.sub("…", reason.replace(CONTINUED, "…"))

    def _refusal(self) -> PromptRefused:
        detail = "; ".join(dict.fromkeys(self._details))[:2000]
        if REWRITES in self._details:
            return PromptRefused(REWRITES, detail)
        if HIDES_PICTURES in self._details:
            return PromptRefused(HIDES_PICTURES, detail)
        reason = next(filter(None, map(readable, self._reasons)), None)
        return PromptRefused(FAILS if reason is None else REFUSES.format(reason), detail)
