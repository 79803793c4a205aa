"""Turns a text into the prompt of a model that is to go on with it, without a chat template. Any thread; no torch.

Here special tokens that a client spells out are special tokens: what the model reads is the client's to say.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from pipelines.chat.prompts.special_tokens import NO_TEXT
from pipelines.chat.replies.detokenize import Detokenizer
from pipelines.chat_interface import Prompt, PromptRefused, RawPrompt

NOTHING = "This model has no token that begins an empty text: send at least one character."


def read_raw_prompt(tokenizer: Any, raw: RawPrompt, n_known: int) -> Prompt:
    """An empty text becomes the token that begins or, for models without one, ends a text.

    n_known: all tokens have numbers below it. Raises `PromptRefused`.
    """
    if isinstance(raw.text, str):
        prompt = _of_text(tokenizer, raw, raw.text)
    elif any(not 0 <= token < n_known for token in raw.text):
        message = f"{raw.field} must be made of tokens of the model: 0 to {n_known - 1}."
        raise PromptRefused(message, field=raw.field)
    else:
        prompt = _of_tokens(tokenizer, raw.text, repeated=raw.repeated)
    if not prompt.tokens:
        first = next((token for token in (tokenizer.bos_token_id, tokenizer.eos_token_id) if token is not None), None)
        if first is None:
            raise PromptRefused(NOTHING, field=raw.field)
        return Prompt(tokens=(first,), offsets=(0,), raw=True)
    return prompt


def _of_text(tokenizer: Any, raw: RawPrompt, text: str) -> Prompt:
    with_places = raw.repeated and tokenizer.is_fast  # others do not tell where their tokens lie
    try:
        read = tokenizer(
            text,
            add_special_tokens=raw.adds_special_tokens,
            return_attention_mask=False,
            return_token_type_ids=False,
            return_offsets_mapping=with_places,
            verbose=False,  # the length is checked elsewhere
        )
    except (TypeError, ValueError) as error:  # half of a surrogate pair is a Python string but not text
        raise PromptRefused(NO_TEXT, str(error), field=raw.field) from error
    tokens = tuple(read["input_ids"])
    if not with_places:
        return _of_tokens(tokenizer, tokens, repeated=raw.repeated)
    offsets = tuple(_begins(read["offset_mapping"]))
    return Prompt(tokens=tokens, continues=bool(text), raw=True, text=text, offsets=offsets)


def _of_tokens(tokenizer: Any, tokens: Sequence[int], *, repeated: bool) -> Prompt:
    """The text of each token, the names of special ones included, gives the places."""
    offsets: list[int] = []
    text = ""
    if repeated:
        detokenizer = Detokenizer(tokenizer)
        stream = detokenizer.stream()
        pieces: list[str] = []
        n_chars = 0
        for token in tokens:
            offsets.append(n_chars)
            new = "".join(piece.text for piece in stream.push(token))
            pieces.append(new)
            n_chars += len(new)
        text = "".join([*pieces, *(piece.text for piece in stream.finish())])
    return Prompt(tokens=tuple(tokens), continues=True, raw=True, text=text, offsets=tuple(offsets))


def _begins(places: Iterable[tuple[int, int]]) -> Iterable[int]:
    """Where each token begins in the text: where the last one ended, or before if it is a part of a character.

    places: begin and end of each token. Some tokenizers leave a space out of both its neighbors; tokens that they add
    are empty and lie at 0.
    """
    end = 0
    for place in places:
        yield end if place == (0, 0) else min(place[0], end)
        end = max(end, place[1])
