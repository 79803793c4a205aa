"""An NVML (`pynvml`) of invented cards, for tests of how a server finds its GPUs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace


@dataclass(frozen=True)
class FakeInstance:
    """A MIG instance."""

    name: str
    uuid: str
    memory_bytes: int
    ids: tuple[int, int] = (1, 0)  # GPU instance, compute instance


@dataclass(frozen=True)
class FakeCard:
    name: str
    uuid: str
    memory_bytes: int
    mig: Sequence[FakeInstance | None] | None = None  # None: not in MIG mode. In it, None is an empty slot
    knows_mig: bool = True
    forbidden: bool = False  # counted by NVML, but not to be opened by this process


class FakeNvml:
    """The functions of `pynvml` that a server calls; a handle is the card or instance itself."""

    class NVMLError(Exception):
        pass

    def __init__(self, cards: Sequence[FakeCard], *, has_driver: bool = True) -> None:
        self._cards = cards
        self._has_driver = has_driver
        self.is_open = False

    def nvmlInit(self) -> None:
        if not self._has_driver:
            raise self.NVMLError("driver not loaded")
        self.is_open = True

    def nvmlShutdown(self) -> None:
        self.is_open = False

    def nvmlDeviceGetCount(self) -> int:
        assert self.is_open
        return len(self._cards)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> FakeCard:
        if self._cards[index].forbidden:
            raise self.NVMLError("no permission")
        return self._cards[index]

    def nvmlDeviceGetUUID(self, handle: FakeCard | FakeInstance) -> str:
        return handle.uuid

    def nvmlDeviceGetName(self, handle: FakeCard | FakeInstance) -> str:
        return handle.name

    def nvmlDeviceGetMemoryInfo(self, handle: FakeCard | FakeInstance) -> SimpleNamespace:
        if isinstance(handle, FakeCard) and handle.mig is not None:
            raise self.NVMLError("no permission")  # the whole card's figures are for root
        return SimpleNamespace(total=handle.memory_bytes)

    def nvmlDeviceGetMigMode(self, handle: FakeCard) -> list[int]:
        if not handle.knows_mig:
            raise self.NVMLError("not supported")
        return [int(handle.mig is not None), 0]

    def nvmlDeviceGetMaxMigDeviceCount(self, handle: FakeCard) -> int:
        return len(handle.mig or ())

    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle: FakeCard, index: int) -> FakeInstance:
        instance = (handle.mig or ())[index]
        if instance is None:
            raise self.NVMLError("not found")
        return instance

    def nvmlDeviceGetGpuInstanceId(self, handle: FakeInstance) -> int:
        return handle.ids[0]

    def nvmlDeviceGetComputeInstanceId(self, handle: FakeInstance) -> int:
        return handle.ids[1]
