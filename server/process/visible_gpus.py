"""Finds the GPUs that CUDA will show this process, in CUDA's order, by asking the driver (NVML) instead of torch.

NVML lists every card of the machine. CUDA lists those that `CUDA_VISIBLE_DEVICES` names, in the order of that list, so
`cuda:0` may be any of NVML's cards. The rules are those of the CUDA programming guide ("CUDA Environment Variables")
and of the MIG user guide; where both are silent, the list is read as `torch.cuda._parse_visible_devices` reads it:

1. Unset: all GPUs. Empty: none.
2. The first entry decides whether the list holds indices, `GPU-` UUIDs or `MIG-` UUIDs.
3. A UUID may be shortened as long as only one device begins with it.
4. An entry that is invalid or of another kind ends the list. A device that is named twice leaves the list empty.
5. A GPU in MIG mode stands for the first of its instances, and a process sees at most one MIG instance.

An index means NVML's order only under `CUDA_DEVICE_ORDER=PCI_BUS_ID`, which `build_engines` sets before torch is
imported. Called once, at start, on the main thread.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Gpu:
    """One CUDA device: a whole GPU, or one MIG instance of a GPU."""

    name: str
    memory_bytes: int
    uuids: tuple[str, ...]  # its own as NVML writes it; for a MIG instance its GPU's too, which CUDA may report instead
    is_mig: bool = False
    alias: str = ""  # the older name of a MIG instance, which CUDA_VISIBLE_DEVICES accepts too


@dataclass(frozen=True, slots=True)
class _Card:
    uuid: str
    devices: tuple[Gpu, ...]  # the card itself, or its MIG instances

    @property
    def device(self) -> Gpu | None:
        """The CUDA device that the card's index or UUID means. None: MIG mode without an instance."""
        return self.devices[0] if self.devices else None


def visible_gpus(nvml: Any, environment: Mapping[str, str]) -> list[Gpu]:
    """The GPUs that CUDA will show, in CUDA's order; none without a driver. nvml: the module `pynvml`, or a fake."""
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return []
    try:
        cards = list(_cards(nvml))
    finally:
        nvml.nvmlShutdown()
    chosen = _choose(cards, environment.get("CUDA_VISIBLE_DEVICES"))
    first_mig = next((gpu for gpu in chosen if gpu.is_mig), None)
    return [gpu for gpu in chosen if not gpu.is_mig or gpu is first_mig]


def _choose(cards: Sequence[_Card], visible: str | None) -> list[Gpu]:
    if visible is None:
        return [card.device for card in cards if card.device is not None]
    kind = next((prefix for prefix in ("GPU-", "MIG-") if visible.startswith(prefix)), "")
    chosen: list[Gpu] = []
    for entry in visible.split(","):
        gpu = _by_uuid(cards, entry, kind) if kind else _by_index(cards, entry)
        if gpu is None:
            break
        if gpu in chosen:
            return []
        chosen.append(gpu)
    return chosen


def _by_index(cards: Sequence[_Card], entry: str) -> Gpu | None:
    digits = re.match(r"\s*\+?(\d+)", entry)  # as C's strtoul reads it: "1gpu" is 1
    return cards[int(digits[1])].device if digits and int(digits[1]) < len(cards) else None


def _by_uuid(cards: Sequence[_Card], entry: str, kind: str) -> Gpu | None:
    if not entry.startswith(kind):
        return None
    if kind == "GPU-":
        found = [card.device for card in cards if card.uuid.startswith(entry)]
    else:
        instances = [gpu for card in cards for gpu in card.devices if gpu.is_mig]
        found = [gpu for gpu in instances if gpu.uuids[0].startswith(entry) or gpu.alias.startswith(entry)]
    return found[0] if len(found) == 1 else None


def _cards(nvml: Any) -> Iterator[_Card]:
    for index in range(nvml.nvmlDeviceGetCount()):
        try:
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
        except nvml.NVMLError:  # NVML also counts cards that this process may not open; CUDA does not
            continue
        uuid = str(nvml.nvmlDeviceGetUUID(handle))
        if _in_mig_mode(nvml, handle):  # the memory of the whole card is then told to root alone
            yield _Card(uuid, tuple(_instances(nvml, handle, uuid)))
        else:
            yield _Card(uuid, (Gpu(*_name_and_bytes(nvml, handle), uuids=(uuid,)),))


def _in_mig_mode(nvml: Any, handle: Any) -> bool:
    try:
        current, _pending = nvml.nvmlDeviceGetMigMode(handle)
    except nvml.NVMLError:  # the card knows no MIG
        return False
    return bool(current)


def _instances(nvml: Any, handle: Any, card_uuid: str) -> Iterator[Gpu]:
    for index in range(nvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
        try:
            instance = nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, index)
        except nvml.NVMLError:  # an empty slot
            continue
        ids = nvml.nvmlDeviceGetGpuInstanceId(instance), nvml.nvmlDeviceGetComputeInstanceId(instance)
        yield Gpu(
            *_name_and_bytes(nvml, instance),
            uuids=(str(nvml.nvmlDeviceGetUUID(instance)), card_uuid),
            is_mig=True,
            alias=f"MIG-{card_uuid}/{ids[0]}/{ids[1]}",
        )


def _name_and_bytes(nvml: Any, handle: Any) -> tuple[str, int]:
    return str(nvml.nvmlDeviceGetName(handle)), int(nvml.nvmlDeviceGetMemoryInfo(handle).total)
