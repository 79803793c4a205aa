"""Fetches the files that a request names by an http or https URL, where the operator allows it."""

from __future__ import annotations

import http.client
import logging
from collections.abc import Callable, Sequence
from ipaddress import ip_network

from server.errors import BadRequest
from server.jobs import safe_get
from server.jobs.inputs.media_types import MAX_BYTES
from server.jobs.inputs.references import WHAT, field_of
from server.jobs.safe_post import Refused, look_up

logger = logging.getLogger(__name__)

MAX_FETCHED = 8  # files of one request
NOT_HERE = "{} must be {}: this server fetches nothing from the network."


class RemoteFiles:
    def __init__(
        self,
        *,
        fetches: bool,
        networks: Sequence[str],
        look_up: Callable[[str, int], Sequence[str]] = look_up,
    ) -> None:
        """fetches: whether the operator allows it. networks: private ones that files may be in."""
        self._fetches = fetches
        self._networks = [ip_network(network) for network in networks]
        self._look_up = look_up

    def check(self, places: Sequence[str]) -> None:
        """places: those of a request that have a URL. Raises `BadRequest`; nothing is fetched yet."""
        if places and not self._fetches:
            raise BadRequest(NOT_HERE.format(places[0], WHAT), param=field_of(places[0]))
        if len(places) > MAX_FETCHED:
            place = places[MAX_FETCHED]
            raise BadRequest(f"{place}: a request may name at most {MAX_FETCHED} files by URL.", param=field_of(place))

    def fetch(self, url: str, place: str) -> bytes:
        """Blocks: worker threads. Raises `BadRequest`."""
        try:
            return safe_get.get(url, max_bytes=MAX_BYTES, allowed=self._networks, look_up=self._look_up)
        except Refused as error:
            raise BadRequest(f"{place} must be {error}.", param=field_of(place)) from None
        except safe_get.NotFetched as error:
            raise BadRequest(f"{place}: the file could not be fetched: {error}.", param=field_of(place)) from None
        except (OSError, http.client.HTTPException) as error:
            logger.info("input file not fetched", extra={"detail": f"{type(error).__name__}: {error}"})
            message = f"{place}: the file could not be fetched: its server does not answer."
            raise BadRequest(message, param=field_of(place)) from None
