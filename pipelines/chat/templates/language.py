"""The language of chat templates: jinja as transformers extends it. Any thread.

Children render the prompts of most models with it (models.isolation.text_worker); transformers itself would bring torch
into each of them. A test compares the two.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

REASONING = ("reasoning_content", "thinking", "reasoning")  # the standard name first


class _Generation(Extension):
    """Reads the blocks {% generation %} … {% endgeneration %}, with which templates mark text for training."""

    tags = {"generation"}  # noqa: RUF012  # as jinja2 declares it

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


def template_environment() -> ImmutableSandboxedEnvironment:
    """Without autoescape: the text is not HTML."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals |= {
        "raise_exception": _raise_exception,
        "strftime_now": _strftime_now,
        "dict": _Dict(),
        "namespace": _Namespace,
    }
    return environment


def render(text: str, variables: Mapping[str, Any]) -> str:
    """Raises whatever the template raises."""
    return _compiled(text).render(**variables)


@lru_cache(maxsize=8)
def _compiled(text: str) -> jinja2.Template:
    return template_environment().from_string(text)


def prepared(conversation: Sequence[Mapping[str, Any]], variables: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the variables of a rendering as `apply_chat_template` of transformers makes them.

    Fields that are None are left out, and thinking has each name that a template may read it by.
    """
    messages = []
    for turn in conversation:
        message = {key: value for key, value in turn.items() if value is not None}
        thinking = next((message[key] for key in REASONING if key in message), None)
        if thinking is not None:
            message = {"thinking": thinking, **message, "reasoning_content": thinking}
        messages.append(message)
    return {"tools": None, "documents": None, "add_generation_prompt": False, **variables, "messages": messages}


class _Dict:
    """The function `dict` of templates, without a way to the class."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args)


class _Namespace(jinja2.utils.Namespace):
    """Refuses attributes of Python's own."""

    def __init__(*args: Any, **kwargs: Any) -> None:  # so that a template may have an attribute "self"
        self, *others = args
        for name in (attributes := dict(*others, **kwargs)):
            _check_attribute(name)
        jinja2.utils.Namespace.__init__(self, attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_attribute(name)
        super().__setitem__(name, value)


def _check_attribute(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.exceptions.SecurityError("a namespace has no attributes that begin with an underscore")


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)  # noqa: DTZ005  # the local day, as transformers has it


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _tojson(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
