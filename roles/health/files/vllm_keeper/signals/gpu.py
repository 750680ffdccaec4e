# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""GPUs: what NVML said of them, as plain data, and what is wrong with them. Nothing here asks the driver.

Memory is compared like with like: `used` is what NVML's second memory call counts, without the part that the driver
keeps for itself (some 480 MiB on an idle H100, which the first call counts as used and nvidia-smi does not show).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from vllm_keeper.signals import GpuFault, xid

if TYPE_CHECKING:
    from vllm_keeper.config import Reader  # which imports this

OK, ABSENT, HUNG, BROKEN = "ok", "absent", "hung", "broken"
MIB = 1 << 20
# Clock events that slow a GPU down against its will. A power cap reached under load is everyday life.
SLOWDOWNS = ("hw_slowdown", "hw_thermal_slowdown", "sw_thermal_slowdown", "hw_power_brake_slowdown")


@dataclass(frozen=True)
class Settings:
    """python: of the environment that has nvidia-ml-py. library: a file to load in its place, for rehearsals."""

    enabled: bool = True
    python: str = "/opt/vllm-keeper/gpu/current/bin/python"
    library: str = ""
    devices: tuple[str, ...] | None = None  # as CUDA_VISIBLE_DEVICES says; None: every GPU
    interval: float = 5
    deadline: float = 5
    retry: float = 300  # seconds until an absent GPU is looked for again
    unattributed: float = 1024  # MiB that may be held by nobody's process: contexts being built up and torn down
    hang_after: int = 3  # looks that failed in a row before the driver is at fault
    kernel_log: str = "/dev/kmsg"  # where Xids are told; a plain file for rehearsals


def read(reader: Reader) -> Settings:
    """The mapping `gpu` of an instance's configuration; its problems go to READER."""
    default = Settings()
    return Settings(
        enabled=reader.flag("enabled", default.enabled),
        python=reader.path("python", default.python),
        library=reader.path("library", default.library),
        devices=_devices(reader),
        interval=reader.number("interval", default.interval, 0.5, 3600),
        deadline=reader.number("deadline", default.deadline, 0.1, 600),
        retry=reader.number("retry", default.retry, 1, 86400),
        unattributed=reader.number("unattributed", default.unattributed, 1, 1 << 24),
        hang_after=reader.count("hang_after", default.hang_after, 1, 1000),
        kernel_log=reader.path("kernel_log", default.kernel_log),
    )


def _devices(reader: Reader) -> tuple[str, ...] | None:
    value = reader.get("devices", None)
    if value is None:
        return None
    if not isinstance(value, list) or any(isinstance(one, bool) or not isinstance(one, (int, str)) for one in value):
        reader.bad("devices", value, "must be a list of GPUs, by number or UUID, such as [0, 1]")
        return None
    return tuple(str(one) for one in value)


@dataclass(frozen=True)
class Memory:
    """Bytes. reserved None: the driver is too old to tell it apart, and it is part of `used`."""

    total: int
    used: int
    reserved: int | None = None


@dataclass(frozen=True)
class GpuProcess:
    pid: int
    used: int | None = None
    alive: bool = True  # False: the driver holds memory for a process that is no more


@dataclass(frozen=True)
class Gpu:
    """None: this GPU or its driver does not tell."""

    index: int
    uuid: str
    name: str = ""
    slot: str = ""  # 0000:3b:00, as the kernel's log names it
    memory: Memory | None = None
    processes: tuple[GpuProcess, ...] | None = None
    ecc_volatile: int | None = None  # uncorrected, since the driver was loaded
    ecc_aggregate: int | None = None  # uncorrected, in its life
    remap_pending: bool | None = None
    remap_failed: bool | None = None
    retired_pages: int | None = None
    retired_pending: bool | None = None
    recovery_action: int | None = None  # xid.Table.actions says what the number asks for
    clock_events: tuple[str, ...] = ()
    temperature: int | None = None
    utilisation: int | None = None
    mig: bool = False
    all_processes: bool = True  # False: looked at from inside a container, where NVML shows some or none
    notes: tuple[str, ...] = ()  # single readings that failed
    error: str = ""  # gpu_is_lost, reset_required, or in NVML's words why it could not be asked

    @property
    def unattributed(self) -> int | None:
        """Bytes in use that no living process accounts for."""
        if self.memory is None or self.memory.reserved is None or self.processes is None or not self.all_processes:
            return None
        known = [process.used for process in self.processes if process.alive]
        held = [used for used in known if used is not None]
        if len(held) < len(known):
            return None  # somebody's share is not told, so nobody's is not known
        return max(0, self.memory.used - sum(held))


@dataclass(frozen=True)
class Readings:
    """state: ok | absent (no error) | hung (the driver does not answer) | broken (it answers, but cannot be used).

    missing: what is absent: library, driver or gpu. missed: looks in a row that were hung or broken.
    library: what was loaded in place of pynvml.
    """

    state: str
    detail: str = ""
    driver: str = ""
    gpus: tuple[Gpu, ...] = ()
    missed: int = 0
    library: str = ""
    missing: str = ""


def parse(data: object) -> Readings:
    """Pure. What the child wrote; whatever does not fit is left out or makes the whole answer `broken`."""
    if not isinstance(data, dict):
        return Readings(BROKEN, f"the reader answered {type(data).__name__}, not a mapping")
    state, library = str(data.get("state", BROKEN)), str(data.get("library", ""))
    if state not in (OK, ABSENT, BROKEN):
        return Readings(BROKEN, f"the reader answered an unknown state {state[:40]!r}", library=library)
    rows = data.get("gpus", [])
    gpus = [_gpu(row) for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
    return Readings(
        state,
        str(data.get("detail", ""))[:500],
        str(data.get("driver", ""))[:80],
        tuple(gpu for gpu in gpus if gpu is not None),
        library=library,
        missing=str(data.get("missing", ""))[:80],
    )


def _gpu(row: dict[str, Any]) -> Gpu | None:
    index = _number(row.get("index"))
    if index is None:
        return None
    processes = row.get("processes")
    return Gpu(
        index=index,
        uuid=str(row.get("uuid", "")),
        name=str(row.get("name", "")),
        slot=xid.slot(str(row.get("bus", ""))),
        memory=_memory(row.get("memory")),
        processes=_processes(processes) if isinstance(processes, list) else None,
        ecc_volatile=_number(row.get("ecc_volatile")),
        ecc_aggregate=_number(row.get("ecc_aggregate")),
        remap_pending=_flag(row.get("remap_pending")),
        remap_failed=_flag(row.get("remap_failed")),
        retired_pages=_number(row.get("retired_pages")),
        retired_pending=_flag(row.get("retired_pending")),
        recovery_action=_number(row.get("recovery_action")),
        clock_events=_words(row.get("clock_events")),
        temperature=_number(row.get("temperature")),
        utilisation=_number(row.get("utilisation")),
        mig=_flag(row.get("mig")) or False,
        all_processes=_flag(row.get("all_processes")) is not False,
        notes=_words(row.get("notes")),
        error=str(row.get("error", ""))[:200],
    )


def _memory(row: object) -> Memory | None:
    if not isinstance(row, dict):
        return None
    total, used = _number(row.get("total")), _number(row.get("used"))
    return None if total is None or used is None else Memory(total, used, _number(row.get("reserved")))


def _processes(rows: Iterable[object]) -> tuple[GpuProcess, ...]:
    found = []
    for row in rows:
        pid = _number(row.get("pid")) if isinstance(row, dict) else None
        if isinstance(row, dict) and pid is not None:
            found.append(GpuProcess(pid, _number(row.get("used")), _flag(row.get("alive")) is not False))
    return tuple(found)


def _words(rows: object) -> tuple[str, ...]:
    return tuple(str(row)[:200] for row in rows) if isinstance(rows, list) else ()


def _number(value: object) -> int | None:
    # A bool is an int to Python, and a negative count is a value of NVML's that means "not available".
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _flag(value: object) -> bool | None:
    return value if isinstance(value, bool) else None


def select(gpus: Sequence[Gpu], devices: Sequence[str] | None) -> tuple[Gpu, ...]:
    """Pure. The GPUs that a server with this CUDA_VISIBLE_DEVICES sees. None: all of them.

    Numbers count as NVML counts, because the service is run with CUDA_DEVICE_ORDER=PCI_BUS_ID. A UUID may be cut short,
    as CUDA allows. A MIG instance does not say whose it is, so it stands for every GPU that is divided.
    """
    if devices is None:
        return tuple(gpus)
    found: dict[int, Gpu] = {}
    for device in (one.strip() for one in devices):
        if device.isdigit():
            match = [gpu for gpu in gpus if gpu.index == int(device)]
        elif device.upper().startswith("MIG-"):
            match = [gpu for gpu in gpus if gpu.mig]
        elif re.match(r"GPU-[0-9a-f]", device, re.IGNORECASE):
            match = [gpu for gpu in gpus if gpu.uuid.lower().startswith(device.lower())]
        else:
            match = []
        if not match:
            break  # CUDA hides whatever follows a device that it does not know
        found.update((gpu.index, gpu) for gpu in match)
    return tuple(found[index] for index in sorted(found))


def chosen(readings: Readings, devices: Sequence[str] | None) -> Readings:
    """The same readings with the GPUs of one instance only."""
    return replace(readings, gpus=select(readings.gpus, devices))


def free(gpus: Iterable[Gpu]) -> int | None:
    """Bytes free on the fullest of these GPUs: the next start needs its share on each. None: it is not told."""
    rooms = []
    for gpu in gpus:
        if gpu.memory is None:
            return None
        rooms.append(max(0, gpu.memory.total - gpu.memory.used - (gpu.memory.reserved or 0)))
    return min(rooms, default=None)


def faults(
    readings: Readings,
    previous: Readings | None = None,
    settings: Settings | None = None,
    table: xid.Table | None = None,
) -> list[GpuFault]:
    """Pure. Everything that is wrong with these GPUs.

    previous: readings of the same GPUs when this server was started (or the keeper, if later). Errors are counted from
    there, and a GPU that was there then must be there now. None: nothing to compare with.
    """
    settings, table = settings or Settings(), table or xid.load()
    if readings.state in (HUNG, BROKEN):
        if readings.missed < settings.hang_after:
            return []  # one reader that was killed or ran out of memory says nothing of the driver
        cause = "driver_hung" if readings.state == HUNG else "nvml_broken"
        # What runs may well go on, but nothing new can be started, and a reset would go through the same driver.
        return [GpuFault("", cause, f"{readings.missed} looks in a row failed: {readings.detail}", "reboot")]
    before = previous.gpus if previous is not None and previous.state == OK else ()
    if readings.state == ABSENT and readings.missing not in ("driver", "gpu"):
        return []  # the keeper cannot look, which says nothing of the GPUs
    found: list[GpuFault] = []
    old = {gpu.uuid: gpu for gpu in before}
    for gpu in readings.gpus:
        # A lost GPU may not even tell its UUID, but it keeps its number until the driver is loaded anew.
        uuid = gpu.uuid or next((one.uuid for one in before if one.index == gpu.index), "")
        found += _faults_of(replace(gpu, uuid=uuid), old.pop(uuid, None), settings, table)
    for gpu in old.values():
        evidence = f"GPU {gpu.index} ({gpu.name}, {gpu.slot}) was there and is not listed any more"
        evidence += f": {readings.detail}" if readings.detail else ""
        found.append(GpuFault(gpu.uuid, "gpu_lost", evidence, "reboot", urgent=True))
    return found


_BROKEN_MEMORY: tuple[tuple[Callable[[Gpu], bool | None], str, str, str], ...] = (
    (
        lambda gpu: gpu.remap_failed,
        "remap_failed",
        "a broken row of memory could not be remapped; NVIDIA asks for a diagnosis",
        "replace",
    ),
    (
        lambda gpu: gpu.remap_pending,
        "remap_pending",
        "a broken row of memory is remapped at the next reset",
        "reset_gpu",
    ),
    (
        lambda gpu: gpu.retired_pending,
        "retirement_pending",
        "a broken page of memory is retired at the next reset",
        "reset_gpu",
    ),
)


def _faults_of(gpu: Gpu, before: Gpu | None, settings: Settings, table: xid.Table) -> list[GpuFault]:
    found: list[GpuFault] = []

    def fault(cause: str, evidence: str, remedy: str = "ignore", urgent: bool = False) -> None:
        found.append(GpuFault(gpu.uuid, cause, f"GPU {gpu.index}: {evidence}", remedy, urgent))

    if gpu.error == "gpu_is_lost":
        fault("gpu_lost", "NVML says that it is lost (fallen off the bus or inaccessible)", "reboot", urgent=True)
        return found
    if gpu.error == "reset_required":
        fault("reset_required", "NVML says that it has to be reset before it can be used", "reset_gpu", urgent=True)
        return found
    if gpu.error:
        fault("unreadable", f"it could not be asked: {gpu.error}")
        return found
    if gpu.recovery_action:
        action = table.actions.get(gpu.recovery_action)
        if action is None:
            fault("recovery_action", f"recovery action {gpu.recovery_action}, which is not in the table")
        else:
            words = f"recovery action {action.name}: {action.advice}"
            fault("recovery_action", words, action.remedy, action.urgent)
    errors = _grown(gpu.ecc_volatile, before.ecc_volatile if before is not None else None)
    if errors:
        # What the errors hit has been told by the driver, and dies of it; what works was not hit.
        fault(
            "ecc_uncorrected", f"{errors} new uncorrected ECC errors ({gpu.ecc_volatile} in all)", "restart_application"
        )
    for present, cause, evidence, remedy in _BROKEN_MEMORY:
        if present(gpu):
            fault(cause, evidence, remedy)
    if gpu.notes:
        fault("unreadable", f"it did not tell everything: {'; '.join(gpu.notes)}")
    slow = [event for event in gpu.clock_events if event in SLOWDOWNS]
    if slow:
        heat = "" if gpu.temperature is None else f" at {gpu.temperature} °C"
        fault("throttled", f"slowed down by {', '.join(slow)}{heat}")
    nobodys = gpu.unattributed
    if nobodys is not None and nobodys > settings.unattributed * MIB:
        dead = [str(process.pid) for process in gpu.processes or () if not process.alive]
        whose = f"processes that are no more ({', '.join(dead)})" if dead else "no process that the driver lists"
        fault("memory_of_nobody", f"{nobodys // MIB} MiB are held by {whose}", "reset_gpu")
    return found


def _grown(now: int | None, before: int | None) -> int:
    if now is None or before is None:
        return 0
    # A smaller number than before: the driver was loaded anew and counts from zero.
    return now - before if now >= before else now
