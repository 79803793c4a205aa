"""Turns messages into the prompt of a model by its chat template. Any thread, one at a time per tokenizer; no torch.

Text that a client wrote never becomes a special token, and no message is left out silently: what a template refuses or
drops in one form is handed to it in another (see `rendering` and `message_forms`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.chat.prompts.pictures import PictureReader
from pipelines.chat.prompts.rendering import FAILS, Renderer, Rendering
from pipelines.chat.prompts.skeleton import PLACEHOLDER, PLACEHOLDERS
from pipelines.chat.prompts.special_tokens import broken, encode, encode_marked, special_tokens, specials_in
from pipelines.chat.prompts.template_variables import check_variables
from pipelines.chat.prompts.thinking_switch import asks_for_none, has_switch, most_tokens, variables_of
from pipelines.chat.prompts.tool_prompt import rendered_with_tools
from pipelines.chat.templates.chat_template import ChatTemplate, TemplateFailed
from pipelines.chat.templates.message_forms import Form, turns
from pipelines.chat.tools.call_grammar import reply_grammar
from pipelines.chat.tools.formats import call_format
from pipelines.chat_interface import Message, Prompt, PromptOptions, PromptRefused

SPELLED_OUT = "The messages spell out a special token of this model, which its tokenizer cannot read as text."
NO_PICTURES = "This model takes no pictures."
EMPTY = "This model's chat template makes an empty prompt of these messages."
THINKS_NOT = "This model is not known to think, so that the effort to think changes nothing."
CONTINUES = "continue_final_message"  # the field of the request
DEFAULTS = PromptOptions()


def read_prompt(
    tokenizer: Any,
    messages: Sequence[Message],
    options: PromptOptions = DEFAULTS,
    pictures: PictureReader | None = None,
    context_tokens: int | None = None,
) -> Prompt:
    """pictures: of a vision-language model.

    Raises `PromptRefused` when the template takes these messages in no form, or when their pictures cannot be read, and
    `PromptTooLong` for pictures that alone fill the context.
    """
    check_variables(tokenizer, options.template_variables)
    messages, continues = _continued(tuple(messages), options.continues)
    images = [image for message in messages for image in message.images]
    if images and pictures is None:
        raise PromptRefused(NO_PICTURES)
    specials, token = special_tokens(tokenizer), "" if pictures is None else pictures.token

    def render(
        template: ChatTemplate, messages: Sequence[Message], variables: Mapping[str, object], mark: str
    ) -> Rendering:
        variables = {**variables, **variables_of(options.effort, template), **options.template_variables}
        return Renderer(template, specials, messages, variables, continues=continues, image=token, mark=mark).render()

    use = options.tool_use
    calls = None
    if use.tools and use.choice != "none":
        shown = rendered_with_tools(tokenizer, specials, messages, use, render)
        found, template = shown.rendering, shown.template
        calls = call_format(tokenizer, shown.family, use)
    else:
        template = ChatTemplate(tokenizer)
        found = render(template, messages, {}, "")
    is_switched = has_switch(template) and not continues  # templates do it where they begin the reply
    warnings = found.warnings
    if asks_for_none(options.effort, options.template_variables):
        if not is_switched:
            found = found.extended(_without_thinking(tokenizer, found.opening) or "")
    elif (
        options.effort is not None
        and not variables_of(options.effort, template)
        and _without_thinking(tokenizer, found.opening) is None
    ):
        warnings = (*warnings, THINKS_NOT)
    read = None
    if images and pictures is not None:
        read = pictures.read(images, context_tokens)
        found = found.expanded(token, read.texts, specials)
    tokens = tuple(_tokens(tokenizer, found))
    if pictures is not None:
        tokens = (*_beginning(tokenizer, found.skeleton), *tokens)
    if not tokens:
        raise PromptRefused(EMPTY)
    return Prompt(
        tokens=tokens,
        opening=found.opening,
        continues=continues,
        max_thinking_tokens=most_tokens(options.effort, template),
        warnings=warnings,
        call_format=calls,
        grammar=reply_grammar(tokenizer, calls, use, options.grammar),
        media=None if read is None or pictures is None else pictures.media(read, tokens),
    )


def end_of_turn_tokens(tokenizer: Any) -> frozenset[int]:
    """Returns the special token with which the template ends an assistant's message; empty when that is not clear.

    Fine-tunes often name another end in their config.
    """
    try:
        template = ChatTemplate(tokenizer)
    except PromptRefused:
        return frozenset()
    if "<|channel|>" in template.text:  # gpt-oss ends each section of a message with the same token
        return frozenset()
    question, answer = PLACEHOLDER.format(0), PLACEHOLDER.format(1)
    for parts in (False, True):
        conversation = turns([Message("user", question), Message("assistant", answer)], Form(parts=parts))
        try:
            rendering = template.render(conversation, {}, with_opening=False)
        except TemplateFailed:
            continue
        if answer in rendering:
            ending = rendering.rpartition(answer)[2].lstrip()
            return frozenset(specials_in(tokenizer, encode(tokenizer, ending)[:1]))
    return frozenset()


def _continued(messages: tuple[Message, ...], continues: bool | None) -> tuple[tuple[Message, ...], bool]:
    """Returns the messages, and whether the reply goes on with the last one."""
    if not messages:
        raise PromptRefused("There are no messages.")
    last = messages[-1]
    if last.role != "assistant":
        if continues:
            raise PromptRefused(
                f"continue_final_message needs a last message of the assistant; the last one is of the {last.role}.",
                field=CONTINUES,
            )
        return messages, False
    if last.tool_calls and continues:
        raise PromptRefused(
            "continue_final_message: the last message calls tools, so that it cannot be continued.", field=CONTINUES
        )
    if continues is False or last.tool_calls:
        return messages, False
    if not last.content.strip():  # nothing to go on with: the reply begins here
        return messages[:-1] or messages, False
    return messages, True


def _beginning(tokenizer: Any, rendering: str) -> list[int]:
    """Returns the token that begins every text, where the template does not write it: processors add it."""
    begin = tokenizer.bos_token
    if begin is None or rendering.startswith(begin):
        return []
    added = list(tokenizer.encode("", add_special_tokens=True))
    return added if added == [tokenizer.bos_token_id] else []


def _without_thinking(tokenizer: Any, opening: str) -> str | None:
    from pipelines.chat.replies.sections import reply_format  # imports torch, which the server does late

    return reply_format(tokenizer).without_thinking(opening)


def _tokens(tokenizer: Any, rendering: Rendering) -> list[int]:
    """Tokenizes the prompt in the first of three ways that makes no other special tokens than the template's own.

    1. As it is. 2. With spelled-out tokens broken. 3. Each text apart from what the template puts around it.
    """
    own = specials_in(tokenizer, encode(tokenizer, PLACEHOLDERS.sub("a", rendering.skeleton)))
    if rendering.marked is None:
        tokens = encode(tokenizer, rendering.text)
        if specials_in(tokenizer, tokens) == own:
            return tokens
    specials, mark = special_tokens(tokenizer), rendering.mark
    try:
        marked = rendering.marked or rendering.again(lambda text, _: broken(text, specials.texts, mark))
        tokens = encode_marked(tokenizer, marked, mark)
        if specials_in(tokenizer, tokens) == own:
            return tokens
        apart = rendering.again(lambda text, _: _apart(broken(text, specials.texts_and_markup, mark), mark))
    except TemplateFailed as error:
        raise PromptRefused(FAILS, error.detail) from error
    for text in rendering.texts:
        if specials_in(tokenizer, encode_marked(tokenizer, broken(text, specials.texts_and_markup, mark), mark)):
            raise PromptRefused(SPELLED_OUT)
    return encode_marked(tokenizer, apart, mark)


def _apart(text: str, mark: str) -> str:
    """Returns the text between marks. White space around it stays outside, where a template may trim it."""
    core = text.strip()
    before, _, after = text.partition(core)
    return before + mark + core + mark + after
