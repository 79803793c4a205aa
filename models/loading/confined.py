"""Lets a tokenizer of transformers read users' texts in a child process, whatever its template and vocabulary hold.

The tokenizer stays as it is, and so does what transformers does around it. Only two of its parts are replaced: the
rendering of its chat template, and the compiled tokenizer's `encode_batch`. One thread at a time uses a tokenizer.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jinja2

from models.errors import BadModel
from models.isolation.child import Child, Ended
from pipelines.chat.templates.language import prepared
from pipelines.chat_interface import PromptRefused

logger = logging.getLogger(__name__)

COMMAND = (sys.executable, "-m", "models.isolation.text_worker")
WALL_S = 20.0  # for one answer on a busy machine; the child itself bounds its processor time
MOST_ENDS, WITHIN_S, ASIDE_S = 3, 600.0, 600.0  # so many ends of the child within a time set the model aside for a time
TOO_COSTLY = "This model's chat template needs too much time or memory for these messages."
TOO_COSTLY_TOKENS = "This model's tokenizer needs too much time or memory for this text."
MAX_GROWTH = 64  # bytes of an answer for each of its question: tokens are longer than what they stand for
ERRORS: Mapping[str, type[Exception]] = {
    "TypeError": TypeError, "ValueError": ValueError, "KeyError": KeyError, "TemplateError": jinja2.TemplateError,
}  # fmt: skip


class TextChild:
    """The child of one tokenizer. It is started at its first use, and again after it ended."""

    def __init__(
        self,
        model: str,
        state: Callable[[], str] | None,
        *,
        wall_s: float = WALL_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """model: its name, for the log. state: makes the JSON of the compiled tokenizer; None: it renders alone."""
        self._model = model
        self._state = state
        self._wall_s = wall_s
        self._clock = clock
        self._child: Child | None = None
        self._ends: deque[float] = deque(maxlen=MOST_ENDS)
        self._lock = threading.Lock()  # of the child, which serves one question at a time
        self._finalizer: Any = None

    def check(self) -> None:
        """Raises `BadModel` while the model is set aside."""
        ends, now = self._ends, self._clock()
        if len(ends) == MOST_ENDS and ends[-1] - ends[0] < WITHIN_S and now - ends[-1] < ASIDE_S:
            minutes = max(1, round((ASIDE_S - (now - ends[-1])) / 60))
            raise BadModel(
                f"its chat template or tokenizer needed too much time or memory {MOST_ENDS} times, so that it is set "
                f"aside for {minutes} more minutes"
            )

    def start(self) -> None:
        """Starts the child, so that the first text does not wait for it. Raises `BadModel`."""
        with self._lock:
            try:
                self._started()
            except Ended as ended:
                self._drop()
                raise BadModel("its tokenizer needs too much time or memory", detail=str(ended)) from ended
            except OSError as error:
                raise BadModel("its prompts cannot be read at the moment", detail=str(error)) from error

    def ask(self, question: Mapping[str, object]) -> Any:
        """Raises what the template or the tokenizer raised, and `PromptRefused` when that ended the child."""
        with self._lock:
            self.check()
            try:
                answer = self._started().ask(question, self._wall_s, _form_of(question), growth=MAX_GROWTH)
            except Ended as ended:
                self._drop()
                self._ends.append(self._clock())
                what = "template" if question["do"] == "render" else "tokenizer"
                told = {"model": self._model, "at": what, "reason": str(ended)}
                logger.warning("a text ended the process that reads it", extra=told)
                raise PromptRefused(TOO_COSTLY if what == "template" else TOO_COSTLY_TOKENS, str(ended)) from ended
            except OSError as error:  # no process can be started
                raise BadModel("its prompts cannot be read at the moment", detail=str(error)) from error
        if "error" in answer:
            raise ERRORS.get(answer["error"], RuntimeError)(answer["message"])
        return answer

    def _started(self) -> Child:
        child = self._child
        if child is not None and child.is_ready:
            return child
        self._drop()  # such as one that was ended from outside
        child = self._child = Child(COMMAND)
        self._finalizer = weakref.finalize(self, _end, child)
        if self._state is not None:
            question = {"do": "open", "tokenizer": self._state()}
            opened = child.ask(question, self._wall_s, _form_of(question))
            if "error" in opened:
                raise Ended(f"{opened['error']}: {opened['message']}")
        return child

    def close(self) -> None:
        """Ends the child until another text comes."""
        with self._lock:
            self._drop()

    def _drop(self) -> None:
        if self._finalizer is not None:
            self._finalizer()
        self._child = self._finalizer = None


def _form_of(question: Mapping[str, object]) -> Callable[[Any], Mapping[str, Any]]:
    """Makes what checks the form of an answer to this question; it raises ValueError."""

    def checked(answer: Any) -> Mapping[str, Any]:
        match question, answer:
            case _, {"error": str(), "message": str()}:
                return dict(answer)
            case {"do": "open"}, {}:
                return {}
            case {"do": "render"}, {"text": str()}:
                return dict(answer)
            case {"do": "encode", "texts": list(texts), "with_offsets": bool(with_offsets)}, {"encodings": list(made)}:
                if len(made) == len(texts) and all(_is_encoding(each, with_offsets=with_offsets) for each in made):
                    return dict(answer)
        raise ValueError("another form")

    return checked


def _is_encoding(made: Any, *, with_offsets: bool) -> bool:
    """Whether it is what the child's `_plain` writes."""
    if not isinstance(made, dict) or not isinstance(made.get("n_sequences"), int):
        return False
    ids, offsets = made["ids"], made.get("offsets")
    lists = [ids, *(made[name] for name in ("type_ids", "attention_mask") if name in made)]
    if with_offsets:
        if not isinstance(offsets, list) or not all(len(each) == 2 and _are_ints(each) for each in offsets):
            return False
        lists.append(made["special_tokens_mask"])
    if not all(_are_ints(each) and len(each) == len(ids) for each in lists):
        return False
    return all(_is_encoding(each, with_offsets=with_offsets) for each in made.get("overflowing", ()))


def _are_ints(values: Any) -> bool:
    return isinstance(values, list) and set(map(type, values)) <= {int}


def _end(child: Child) -> None:
    child.end()
    child.release()


class _Encoding:
    """What transformers reads of an encoding of the tokenizers library."""

    def __init__(self, plain: Mapping[str, Any], again: Callable[[], Mapping[str, Any]]) -> None:
        """again: makes the same encoding with the places of its tokens, which are seldom asked for."""
        self._again = again
        self.ids: list[int] = plain["ids"]
        self.n_sequences: int = plain["n_sequences"]
        self.type_ids: list[int] = plain.get("type_ids") or [0] * len(self.ids)
        self.attention_mask: list[int] = plain.get("attention_mask") or [1] * len(self.ids)
        self.overflowing = [_Encoding(each, dict) for each in plain.get("overflowing", ())]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def offsets(self) -> list[tuple[int, int]]:
        return [(begin, end) for begin, end in self._again()["offsets"]]

    @property
    def special_tokens_mask(self) -> list[int]:
        mask: list[int] = self._again()["special_tokens_mask"]
        return mask


class _Backend:
    """A compiled tokenizer whose texts are read in a child."""

    def __init__(self, tokenizer: Any, child: TextChild) -> None:
        object.__setattr__(self, "_tokenizer", tokenizer)
        object.__setattr__(self, "_child", child)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def __setattr__(self, name: str, value: object) -> None:
        setattr(self._tokenizer, name, value)

    def encode_batch(
        self, texts: Sequence[Any], add_special_tokens: bool = True, is_pretokenized: bool = False
    ) -> list[_Encoding]:
        tokenizer = self._tokenizer
        question = {
            "do": "encode",
            "texts": list(texts),
            "add_special_tokens": add_special_tokens,
            "is_pretokenized": is_pretokenized,
            "splits_special_tokens": tokenizer.encode_special_tokens,
            "truncation": tokenizer.truncation,
            "padding": tokenizer.padding,
            "with_offsets": False,
        }

        def again(index: int) -> Mapping[str, Any]:
            found: Mapping[str, Any] = self._child.ask(question | {"with_offsets": True})["encodings"][index]
            return found

        made = self._child.ask(question)["encodings"]
        return [_Encoding(plain, lambda i=i: again(i)) for i, plain in enumerate(made)]  # type: ignore[misc]  # mypy#12557


def confine(tokenizer: Any, model: str) -> TextChild:
    """Changes the tokenizer in place. model: its name, for the log.

    A tokenizer that transformers has in Python stays in this process; its template does not.
    """
    backend = getattr(tokenizer, "_tokenizer", None) if getattr(tokenizer, "is_fast", False) else None
    child = TextChild(model, None if backend is None else backend.to_str)
    if backend is not None:
        tokenizer._tokenizer = _Backend(backend, child)
    specials = dict(tokenizer.special_tokens_map)

    def apply_chat_template(
        conversation: Sequence[Mapping[str, Any]], *, chat_template: str, tokenize: bool, **variables: Any
    ) -> str:
        assert not tokenize
        text: str = child.ask(
            {"do": "render", "template": chat_template, "variables": prepared(conversation, specials | variables)}
        )["text"]
        return text

    tokenizer.apply_chat_template = apply_chat_template
    return child
