"""Accepts connections while there are descriptors for them, and closes those whose clients keep it waiting.

Anybody may connect, without a key. asyncio's own server accepts until the process has no descriptor left, and then the
store and the files of jobs have none either. Event loop only.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import os
import socket
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import TypeAlias

import uvicorn

from server.http.http11 import Http11

logger = logging.getLogger(__name__)

Networks: TypeAlias = Sequence[IPv4Network | IPv6Network]

MOST_CONNECTIONS = 4096  # each takes about 20 KiB, and up to 96 KiB more while its client sends or reads slowly
MOST_OF_ONE_ADDRESS = MOST_CONNECTIONS // 2  # of one that is not this machine or a trusted proxy
ACCEPTED_AT_ONCE = 32  # before other work gets its turn
CLOSED_AT_ONCE = 16  # idle connections, to make room
FULL_S = 0.1  # until the next look for room
MOST_UNSENT_BYTES = 256 * 2**20  # of replies that clients have not taken, of all connections together
TICKS_PER_S = 10  # of uvicorn


class FrontDoor(uvicorn.Server):
    """uvicorn's server with an acceptor of its own. Its protocol must be `Http11`."""

    def __init__(self, config: uvicorn.Config, *, max_descriptors: int, proxies: Sequence[str] = ()) -> None:
        """max_descriptors: connections get no descriptor from this number on. proxies: addresses and networks that
        many clients share.
        """
        super().__init__(config)
        self._max_descriptors = max_descriptors
        self._proxies = [ip_network(proxy) for proxy in proxies]

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=[])
        self.servers += [_Acceptor(self, sock, self._max_descriptors, self._proxies) for sock in sockets or []]  # type: ignore[misc]

    async def on_tick(self, counter: int) -> bool:
        if counter % TICKS_PER_S == 0:
            self.check_connections(asyncio.get_running_loop().time())
        return await super().on_tick(counter)

    def connections(self) -> Iterator[Http11]:
        for connection in self.server_state.connections:
            assert isinstance(connection, Http11)
            yield connection

    def check_connections(self, now: float) -> None:
        """Closes connections that are past a deadline, and those that hold too much of what was sent to them."""
        unread: list[tuple[float, int, Http11]] = []
        for connection in list(self.connections()):
            connection.check_deadlines(now)
            if n_bytes := connection.unsent_bytes:
                unread.append((connection.stalled_since, n_bytes, connection))
        excess = sum(n_bytes for _, n_bytes, _ in unread) - MOST_UNSENT_BYTES
        if excess > 0:
            logger.warning("clients do not read their replies, closing the slowest", extra={"excess_bytes": excess})
            for _, n_bytes, connection in sorted(unread, key=lambda each: each[0]):
                connection.transport.abort()
                excess -= n_bytes
                if excess <= 0:
                    break

    def close_idle(self) -> bool:
        """Closes some of the connections that wait for their client; False when there are none. The first are those
        without a key that wait longest.
        """
        waiting = [
            (kind, connection.waiting_since, id(connection), connection)
            for connection in self.connections()
            if (kind := connection.waiting()) is not None
        ]
        chosen = heapq.nsmallest(CLOSED_AT_ONCE, waiting)
        for kind, *_, connection in chosen:
            if kind == chosen[0][0]:  # nobody with a key, as long as others are enough
                connection.transport.abort()
        return bool(chosen)


class _Acceptor:
    """One listening socket. It has the methods of asyncio's server that uvicorn calls."""

    def __init__(self, door: FrontDoor, sock: socket.socket, max_descriptors: int, proxies: Networks) -> None:
        self._door = door
        self._sock = sock
        self._max_descriptors = max_descriptors
        self._proxies = proxies
        self._loop = asyncio.get_running_loop()
        self._starting: set[asyncio.Task[None]] = set()
        self._closed = False
        self._full = False
        sock.setblocking(False)
        self._resume()

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._loop.remove_reader(self._sock)

    async def wait_closed(self) -> None:
        await asyncio.gather(*self._starting, return_exceptions=True)

    def _resume(self) -> None:
        if self._closed:
            return
        if self._has_room():
            self._full = False
            self._loop.add_reader(self._sock, self._accept)
        else:
            self._pause()

    def _pause(self) -> None:
        """New clients wait in the kernel's queue."""
        if not self._full:
            self._full = True
            logger.warning("no room for more connections, new ones wait", extra={"connections": len(self._connections)})
        self._loop.remove_reader(self._sock)
        self._loop.call_later(FULL_S, self._resume)

    def _accept(self) -> None:
        for _ in range(ACCEPTED_AT_ONCE):
            if not self._has_room():
                if not self._door.close_idle():
                    self._pause()
                return  # the next round has what was closed now
            try:
                client, address = self._sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                logger.warning("cannot accept connections", extra={"reason": error.strerror})
                self._pause()
                return
            if self._has_too_many(address):
                client.close()
                continue
            client.setblocking(False)
            task = self._loop.create_task(self._start(client))
            self._starting.add(task)
            task.add_done_callback(self._starting.discard)

    async def _start(self, client: socket.socket) -> None:
        door = self._door
        try:
            await self._loop.connect_accepted_socket(
                lambda: Http11(door.config, door.server_state, door.lifespan.state, self._loop), client
            )
        except OSError:
            client.close()  # it has left already

    @property
    def _connections(self) -> Collection[object]:
        return self._door.server_state.connections

    def _has_room(self) -> bool:
        if len(self._connections) + len(self._starting) >= MOST_CONNECTIONS:
            return False
        try:
            lowest_free = os.dup(self._sock.fileno())
        except OSError:  # none is left
            return False
        os.close(lowest_free)
        return lowest_free < self._max_descriptors

    def _has_too_many(self, address: object) -> bool:
        most = min(MOST_OF_ONE_ADDRESS, self._max_descriptors // 2)
        if len(self._connections) < most or not isinstance(address, tuple):
            return False
        host = str(address[0])
        parsed = ip_address(host.partition("%")[0])
        if parsed.is_loopback or any(parsed in network for network in self._proxies):
            return False
        return Counter(each.client[0] for each in self._door.connections() if each.client)[host] >= most
