"""Reads the pictures of messages in each dialect's own form. Pure functions.

A picture that cannot be read is a 400 that names the place.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NoReturn

from pipelines.chat_interface import MessageImage
from server.errors import BadRequest
from server.jobs.image_files import FILE_TYPES, MAX_IMAGE_BYTES, TOO_LARGE, what_it_must_be
from server.jobs.inputs.references import FILE_ID

MAX_IMAGES = 64  # of one request
MAX_URL_CHARACTERS = 2000
LOW_DETAIL_SIDE = 512  # pixels, as OpenAI describes `detail: low`
DETAILS = ("auto", "low", "high")

DATA_URL = re.compile(r"data:[^,;]{0,100}(?:;[^,;]{0,100}){0,4}?;base64,", re.IGNORECASE)
REMOTE_URL = re.compile(r"https?://", re.IGNORECASE)
FILE_FORM = "the id of a picture that was sent to POST /v1/files or /api/files"
URL_FORM = "a data URL with the picture in base64, like data:image/png;base64,…"


class RequestImages:
    """Reads the pictures of one request, and counts them against its limits."""

    def __init__(self, param: str = "messages") -> None:
        """param: the field of the request that has the messages, for errors."""
        self._param = param
        self._n_images = 0

    def openai_part(self, part: Mapping[str, Any], place: str) -> MessageImage:
        """Reads {"type": "image_url", "image_url": {"url", "detail"}}, or with the URL in the place of the object, and
        the Responses API's {"type": "input_image", "image_url": "…", "detail"}, where file_id may take the place of
        image_url. Raises `BadRequest`.
        """
        source, file_id, detail = part.get("image_url"), part.get("file_id"), part.get("detail")
        if file_id is not None and source is not None:
            self._refuse(f"{place}.file_id", "left out beside image_url")
        if file_id is not None:
            source, place = file_id, f"{place}.file_id"
        else:
            place = f"{place}.image_url"
        if isinstance(source, dict):
            detail = source.get("detail", detail)
            source, place = source.get("url"), f"{place}.url"
        if detail is not None and detail not in DETAILS:
            self._refuse(f"{place.removesuffix('.url')}.detail", f"one of {', '.join(DETAILS)}")
        image = self.url(source, place) if file_id is None else self.file(source, place)
        return replace(image, longest_side=LOW_DETAIL_SIDE if detail == "low" else None)

    def anthropic_part(self, part: Mapping[str, Any], place: str) -> MessageImage:
        """Reads {"type": "image", "source": {"type": "base64", "media_type", "data"}}, or a source of the type url or
        file. Raises `BadRequest`.
        """
        source, place = part.get("source"), f"{place}.source"
        if not isinstance(source, dict) or source.get("type") not in ("base64", "url", "file"):
            self._refuse(f"{place}.type", "base64, url or file")
        if source["type"] == "url":
            return self.url(source.get("url"), f"{place}.url")
        if source["type"] == "file":
            return self.file(source.get("file_id"), f"{place}.file_id")
        return self.base64(source.get("data"), f"{place}.data")

    def url(self, url: object, place: str) -> MessageImage:
        """Reads a data URL, or notes one of http or https, which is fetched later if this server does that.
        Raises `BadRequest`.
        """
        if not isinstance(url, str):
            self._refuse(place, URL_FORM)
        if REMOTE_URL.match(url) and len(url) <= MAX_URL_CHARACTERS:
            self._count(place)
            return MessageImage(0, b"", url=url, place=place)
        head = DATA_URL.match(url)
        if head is None:
            self._refuse(place, URL_FORM)
        return self.base64(url[head.end() :], place)

    def file(self, file_id: object, place: str) -> MessageImage:
        """Notes the id of a file that was sent before, which is read later. Raises `BadRequest`."""
        if not isinstance(file_id, str) or not FILE_ID.fullmatch(file_id):
            self._refuse(place, FILE_FORM)
        self._count(place)
        return MessageImage(0, b"", file_id=file_id, place=place)

    def base64(self, text: object, place: str) -> MessageImage:
        """Reads the base64 of a file. Raises `BadRequest`."""
        self._count(place)
        if not isinstance(text, str):
            self._refuse(place, f"the base64 of {FILE_TYPES}")
        if len(text) > MAX_IMAGE_BYTES * 3 // 2:  # base64 is 4/3, and its lines may be broken
            self._refuse(place, TOO_LARGE)
        try:
            data = base64.b64decode(text.encode("ascii").translate(None, b" \r\n\t"), validate=True)
        except ValueError:  # also a character that is not ASCII
            self._refuse(place, f"the base64 of {FILE_TYPES}, without other characters")
        if (must_be := what_it_must_be(data)) is not None:
            self._refuse(place, must_be)
        return MessageImage(0, data, place=place)

    def _count(self, place: str) -> None:
        self._n_images += 1
        if self._n_images > MAX_IMAGES:
            raise BadRequest(f"{place}: a request may have at most {MAX_IMAGES} pictures.", param=self._param)

    def _refuse(self, place: str, must_be: str) -> NoReturn:
        raise BadRequest(f"{place} must be {must_be}.", param=self._param)


class ContentParts:
    """The parts of one message as its content and the places of its pictures.

    Texts that follow each other become lines of their own, as other servers join them. A picture stands between two
    texts with nothing added.
    """

    def __init__(self) -> None:
        self.images: list[MessageImage] = []
        self._texts: list[str] = []
        self._n_characters = 0
        self._follows_text = False

    @property
    def text(self) -> str:
        return "".join(self._texts)

    def add_text(self, text: str) -> None:
        added = f"\n{text}" if self._follows_text else text
        self._texts.append(added)
        self._n_characters += len(added)
        self._follows_text = True

    def add_image(self, image: MessageImage) -> None:
        self.images.append(replace(image, at=self._n_characters))
        self._follows_text = False
