"""Turns the calls into methods: on `AgentName` they return values, on `AsyncAgentName` they are awaited.

`Methods` lists the methods of both clients.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, Self, TypeVar, overload

from server.client.calls import Calls
from server.client.talk import Call

P = ParamSpec("P")
T = TypeVar("T")


class BlockingClient(Protocol):
    """Executes a call on the calling thread."""

    calls: Calls

    def one(self, call: Call[T]) -> T: ...
    def all(self, call: Call[T]) -> Generator[T, None, None]: ...


class AsyncClient(Protocol):
    """Executes a call on the event loop."""

    calls: Calls

    def one(self, call: Call[T]) -> Coroutine[Any, Any, T]: ...
    def all(self, call: Call[T]) -> AsyncGenerator[T, None]: ...


class One(Generic[P, T]):
    """A method for a call with one result, the last value that it emits."""

    def __init__(self, call: Callable[Concatenate[Calls, P], Call[T]]) -> None:
        self._call = call
        self.__doc__ = call.__doc__

    @overload
    def __get__(self, client: None, owner: type) -> Self: ...
    @overload
    def __get__(self, client: BlockingClient, owner: type) -> Callable[P, T]: ...
    @overload
    def __get__(self, client: AsyncClient, owner: type) -> Callable[P, Coroutine[Any, Any, T]]: ...
    def __get__(self, client: Any, owner: type) -> Any:
        if client is None:
            return self
        return _named(self._call, lambda *args, **kwargs: client.one(self._call(client.calls, *args, **kwargs)))


class Many(Generic[P, T]):
    """A method for a call with several results, one after another."""

    def __init__(self, call: Callable[Concatenate[Calls, P], Call[T]]) -> None:
        self._call = call
        self.__doc__ = call.__doc__

    @overload
    def __get__(self, client: None, owner: type) -> Self: ...
    @overload
    def __get__(self, client: BlockingClient, owner: type) -> Callable[P, Generator[T, None, None]]: ...
    @overload
    def __get__(self, client: AsyncClient, owner: type) -> Callable[P, AsyncGenerator[T, None]]: ...
    def __get__(self, client: Any, owner: type) -> Any:
        if client is None:
            return self
        return _named(self._call, lambda *args, **kwargs: client.all(self._call(client.calls, *args, **kwargs)))


def _named(call: Callable[..., Any], method: Callable[..., Any]) -> Callable[..., Any]:
    """Copies name and docstring of the call to the method, for `help`."""
    method.__name__, method.__qualname__, method.__doc__ = call.__name__, call.__qualname__, call.__doc__
    return method


class Methods:
    generate = One(Calls.generate)
    upload = One(Calls.upload)
    files = One(Calls.files)
    delete_file = One(Calls.delete_file)
    status = One(Calls.status)
    watch = Many(Calls.watch)
    wait = One(Calls.wait)
    jobs = One(Calls.jobs)
    cancel = One(Calls.cancel)
    delete = One(Calls.delete)
    download = One(Calls.download)
    save = One(Calls.save)
    chat = One(Calls.chat)
    stream_chat = Many(Calls.stream_chat)
    conversations = One(Calls.conversations)
    conversation = One(Calls.conversation)
    rename_conversation = One(Calls.rename_conversation)
    forget_conversation = One(Calls.forget_conversation)
    models = One(Calls.models)
    gpu = One(Calls.gpu)
    load = One(Calls.load)
    unload = One(Calls.unload)
    pin = One(Calls.pin)
    unpin = One(Calls.unpin)
    request = One(Calls.request)
