"""The pictures of a chat: which models take them, and how those are had that a message names by URL or file.

Event loop only.
"""

from __future__ import annotations

import asyncio
import http.client
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from ipaddress import ip_network

from models.spec import ModelSpec
from pipelines.chat_interface import Message, MessageImage
from server.accounts.auth import ApiKey
from server.errors import BadRequest, NotFound
from server.jobs import safe_get
from server.jobs.image_files import MAX_IMAGE_BYTES, TOO_LARGE, what_it_must_be
from server.jobs.inputs.files import InputFiles
from server.jobs.safe_post import Refused, look_up
from server.units import size

logger = logging.getLogger(__name__)

FETCHING = 8  # threads, which slow servers may keep busy
MAX_FETCHED = 8  # pictures of one request
MAX_FETCHED_BYTES = 64 * 2**20
MAX_NAMED = 5
NOT_HERE = (
    "{} must be a data URL: this server fetches no pictures from the network. Send the picture itself, like "
    "data:image/png;base64,…"
)


class ChatImages:
    def __init__(
        self,
        specs: Callable[[], Sequence[ModelSpec]],
        input_files: InputFiles,
        *,
        fetches: bool = False,
        networks: Sequence[str] = (),
        look_up: Callable[[str, int], Sequence[str]] = look_up,
    ) -> None:
        """specs: returns all models. fetches: pictures are fetched from URLs. networks: private ones that they may be
        in.
        """
        self._specs = specs
        self._input_files = input_files
        self._fetches = fetches
        self._networks = [ip_network(network) for network in networks]
        self._look_up = look_up
        self._executor = ThreadPoolExecutor(FETCHING, thread_name_prefix="pictures")

    def check(self, spec: ModelSpec, messages: Sequence[Message]) -> None:
        """Raises `BadRequest` for pictures that this model, or this server, does not take. Nothing is fetched yet."""
        images = _images(messages)
        if images and not spec.takes_images:
            able = [other.name for other in self._specs() if other.takes_images][:MAX_NAMED]
            others = f"Models that do: {', '.join(able)}." if able else "No model here does."
            message = f"The model {spec.name} takes no pictures. {others} GET /api/models shows the inputs of each."
            raise BadRequest(message, param="messages")
        remote = [image for image in images if image.url]
        if remote and not self._fetches:
            raise BadRequest(NOT_HERE.format(remote[0].place), param="messages")
        if len(remote) > MAX_FETCHED:
            place = remote[MAX_FETCHED].place
            raise BadRequest(f"{place}: a request may name at most {MAX_FETCHED} pictures by URL.", param="messages")

    async def fetched(self, key: ApiKey, messages: Sequence[Message]) -> tuple[Message, ...]:
        """Returns the messages with the files of all pictures. Raises `BadRequest` for one that cannot be had."""
        remote = [image for image in _images(messages) if image.url]
        sent = [image for image in _images(messages) if image.file_id]
        if not remote and not sent:
            return tuple(messages)
        loop = asyncio.get_running_loop()
        files = [await self._read(key, image) for image in sent]
        files += await asyncio.gather(*(loop.run_in_executor(self._executor, self._get, image) for image in remote))
        if sum(map(len, files)) > MAX_FETCHED_BYTES:
            message = "The pictures that the messages name by URL or by file are too large together."
            raise BadRequest(message, param="messages")
        data = dict(zip(map(id, (*sent, *remote)), files, strict=True))
        return tuple(
            replace(
                message, images=tuple(replace(image, data=data.get(id(image), image.data)) for image in message.images)
            )
            for message in messages
        )

    async def _read(self, key: ApiKey, image: MessageImage) -> bytes:
        try:
            row, path = await self._input_files.get(key, image.file_id)
        except NotFound:
            raise BadRequest(f"{image.place}: there is no such file.", param="messages") from None
        if row.fps is not None:
            raise BadRequest(f"{image.place} must be the id of a picture, and not of a clip.", param="messages")
        if row.kept_bytes > MAX_IMAGE_BYTES:
            message = f"{image.place} must be {TOO_LARGE}. This one takes {size(row.kept_bytes)} as PNG."
            raise BadRequest(message, param="messages")
        return await asyncio.to_thread(path.read_bytes)

    def _get(self, image: MessageImage) -> bytes:
        """Worker threads."""
        try:
            data = safe_get.get(image.url, max_bytes=MAX_IMAGE_BYTES, allowed=self._networks, look_up=self._look_up)
        except Refused as error:
            raise BadRequest(f"{image.place} must be {error}.", param="messages") from None
        except safe_get.NotFetched as error:
            raise BadRequest(f"{image.place}: the picture could not be fetched: {error}.", param="messages") from None
        except (OSError, http.client.HTTPException) as error:
            logger.info("picture not fetched", extra={"detail": f"{type(error).__name__}: {error}"})
            message = f"{image.place}: the picture could not be fetched: its server does not answer."
            raise BadRequest(message, param="messages") from None
        if (must_be := what_it_must_be(data)) is not None:
            raise BadRequest(f"{image.place} must be the URL of {must_be}.", param="messages")
        return data


def _images(messages: Sequence[Message]) -> list[MessageImage]:
    return [image for message in messages for image in message.images]
