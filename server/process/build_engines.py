"""Builds one engine for each device, and one fleet of them. Called once, at start, on the event loop.

This is the only file of `server/` that uses torch, through `models.loading` and `pipelines`, and it does so in
functions that the engine calls on its device thread.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from models.catalogue import Catalogue, is_built_in
from models.loading.measured import FILE_NAME, Measured
from models.loading.read_ahead import read_ahead
from models.spec import ModelSpec
from pipelines import dtype_lock
from pipelines.interface import Lane
from server.engine.engine import Engine
from server.engine.model_loader import Device
from server.fleet.fleet import Fleet
from server.marks import Mark, Marks
from server.memory.ledger import Ledger, Reading
from server.memory.requirements import Requirements, WeightPlacement, cache_bytes
from server.process.hardware import Machine, NoSuchDevice, auto_dtype, torch_device
from server.process.host_memory import HostMemory
from server.process.libraries import import_libraries, keep_compiled_code
from server.process.settings import Settings
from server.process.supervisor import POISONED, UNUSABLE
from server.protocol import Event
from server.scheduling.actions import ModelFacts
from server.scheduling.scheduler import Scheduler
from server.service.learned import LearnedValues, measurement_key

logger = logging.getLogger(__name__)


def make_fleet(
    settings: Settings,
    machines: Sequence[Machine],
    catalogue: Catalogue,
    learned: LearnedValues,
    deliver: Callable[[Event], None],
    marks: Marks,
) -> Fleet:
    """The fleet of all devices. deliver: called on the event loop with every event of an engine."""
    keep_compiled_code(settings.cache_dir)
    cuda_turn = threading.Lock()  # devices start CUDA one after another
    threads = max(1, (settings.torch_threads or os.cpu_count() or 1) // len(machines))
    host = HostMemory()
    make = [
        partial(_engine, settings, machine, host, catalogue, learned, cuda_turn, threads, marks.device(index))
        for index, machine in enumerate(machines)
    ]
    return Fleet(
        make,
        deliver,
        names=[machine.device for machine in machines],
        device_of=lambda model: catalogue.recall(model).device,
    )


def _engine(
    settings: Settings,
    machine: Machine,
    host: HostMemory,
    catalogue: Catalogue,
    learned: LearnedValues,
    cuda_turn: threading.Lock,
    threads: int,
    mark: Mark,
    deliver: Callable[[Event], None],
) -> Engine:
    ledger, key_of = _ledger(settings, machine), _keys(machine)
    weights = _weights(settings, machine, ledger.usable_bytes)

    def cache_of(spec: ModelSpec) -> int:
        return cache_bytes(spec.weight_bytes, ledger.usable_bytes) if spec.type == "chat" else 0

    def facts(model: str) -> ModelFacts:
        spec = catalogue.recall(model)  # knows removed models too, whose lanes live until their jobs are done
        return ModelFacts(
            name=model,
            type=spec.type,
            need_bytes=weights.device_bytes(spec) + cache_of(spec),
            cache_bytes=cache_of(spec),
            max_running=spec.max_running,
            keep_alive_s=settings.keep_alive if spec.keep_alive_s is None else spec.keep_alive_s,
            pinned=spec.pinned,
            fingerprint=key_of(spec),
            shareable={} if weights.offloads(spec) else _shareable(spec, auto_dtype([machine])),
        )

    scheduler = Scheduler(
        ledger,
        facts,
        chat_share=settings.chat_share,
        min_residency_s=settings.min_residency_s,
        max_step_s=settings.max_quantum_s,
        reads_ahead=True,
    )
    scheduler.peaks.restore(learned.stored_peaks())
    device = _device(
        machine,
        host,
        catalogue,
        cache_of,
        weights.offloads,
        cuda_turn,
        threads,
        lambda spec: learned.verdicts(key_of(spec)),
        Measured(settings.cache_dir / FILE_NAME),
    )
    return Engine(scheduler, device, deliver, step_timeout_s=settings.step_timeout_s, mark=mark)


def _shareable(spec: ModelSpec, auto: str) -> Mapping[str, tuple[str, int]]:
    """Component → (key, bytes) of weights that another model may share: those used as they are in the files."""
    if spec.load.quantization is not None or spec.load.offload or spec.embedding_paths:
        return {}
    dtype = auto if spec.dtype == "auto" else spec.dtype
    return {name: (f"{weights} {dtype}", n_bytes) for name, (weights, n_bytes) in spec.shareable.items()}


def memory_requirements(settings: Settings, machines: Sequence[Machine], learned: LearnedValues) -> Requirements:
    """The memory that jobs need at least, on the largest device, by the peaks that all devices measured."""
    machine = max(machines, key=lambda machine: machine.memory_bytes)
    weights = _weights(settings, machine, _ledger(settings, machine).usable_bytes)
    return Requirements(learned.peaks, _keys(machine), weights)


def _ledger(settings: Settings, machine: Machine) -> Ledger:
    reserve = min(settings.memory_reserve, machine.memory_bytes // 8)
    return Ledger(
        name=machine.name,
        capacity_bytes=machine.memory_bytes,
        reserve_bytes=reserve,
        host_bytes=machine.parking_bytes,
    )


def _weights(settings: Settings, machine: Machine, usable_bytes: int) -> WeightPlacement:
    float_bytes = {"float32": 4, "bfloat16": 2, "float16": 2}
    return WeightPlacement(
        usable_bytes,
        auto_offload=settings.offload and machine.device != "cpu",  # on a CPU device offload frees nothing
        float_bytes=lambda spec: float_bytes[spec.dtype if spec.dtype != "auto" else auto_dtype([machine])],
    )


def _keys(machine: Machine) -> Callable[[ModelSpec], str]:
    """Makes the keys of measurements: they hold for the files of a model, a precision and a kind of device."""
    keys: dict[str, tuple[ModelSpec, str]] = {}  # by model name; another spec of that name means other files

    def key_of(spec: ModelSpec) -> str:
        known = keys.get(spec.name)
        if known is None or known[0] is not spec:
            precision = spec.dtype if spec.dtype != "auto" else auto_dtype([machine])
            stored = " ".join(filter(None, (precision, spec.load.quantization)))
            known = keys[spec.name] = spec, measurement_key(spec.path, stored, machine.device)
        return known[1]

    return key_of


def _device(
    machine: Machine,
    host: HostMemory,
    catalogue: Catalogue,
    cache_of: Callable[[ModelSpec], int],
    offloads: Callable[[ModelSpec], bool],
    cuda_turn: threading.Lock,
    threads: int,
    verdicts: Callable[[ModelSpec], Mapping[str, bool]],
    measured: Measured,
) -> Device:
    """The functions that the engine uses the device with. Torch is imported by `warm_up`, on the device thread."""
    shared: list[Any] = []  # at most one SharedWeights, made once torch is imported; device thread only
    smoke_tested: set[str] = set()  # checkpoints that passed their smoke run in this process; device thread only
    torch_name = machine.device  # torch's name of the device, which `warm_up` corrects

    def warm_up() -> None:
        nonlocal torch_name
        import_libraries()
        with cuda_turn:
            from pipelines import device

            device.keep_what_is_imported()
            torch_name = _torch_name(machine, device.uuids)
        device.use_threads(threads)

    def load(model: str) -> Lane:
        from models.loading.load import load as load_lane
        from models.loading.shared_weights import SharedWeights

        if not shared:
            shared.append(SharedWeights())
        spec = catalogue.get(model)
        return load_lane(
            spec,
            device=torch_name,
            cache_bytes=cache_of(spec),
            verdicts=verdicts(spec),
            offload=offloads(spec),
            smoke_tested=smoke_tested,
            shared=shared[0],
            measured=measured,
            confines=not is_built_in(spec),
        )

    def read(model: str) -> None:
        read_ahead(catalogue.get(model))

    def read_memory() -> Reading | None:
        if machine.device == "cpu":
            return host.reading()
        from pipelines import device

        free, _ = device.memory(torch_name)
        return Reading(
            free_bytes=free,
            ours_bytes=device.held_by_us(torch_name),
            host_free_bytes=max(0, host.available_bytes() - device.HOST_MARGIN_BYTES),
        )

    def is_fatal(error: BaseException) -> bool:
        from pipelines import device

        return device.is_fatal(error)

    def is_out_of_memory(error: BaseException) -> bool:
        from pipelines import device

        return device.is_out_of_memory(error)

    return Device(
        load=load,
        read=read,
        read_memory=read_memory,
        is_fatal=is_fatal,
        is_out_of_memory=is_out_of_memory,
        die=lambda: os._exit(POISONED),
        warm_up=warm_up,
        working=dtype_lock.working,
        others_wait=dtype_lock.others_wait,
    )


def _torch_name(machine: Machine, torch_uuids: Callable[[], Sequence[str]]) -> str:
    """Torch's name for the device; ends the process when torch does not see it, so that no other GPU is used."""
    if machine.device == "cpu":
        return "cpu"
    try:
        name = torch_device(machine, torch_uuids())
    except NoSuchDevice as error:
        logger.critical("torch does not see the device, leaving", extra={"reason": str(error)})
        os._exit(UNUSABLE)
    if name != machine.device:
        logger.warning("torch orders the GPUs otherwise", extra={"device": machine.device, "torch_device": name})
    return name
