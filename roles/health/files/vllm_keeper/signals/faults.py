# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""NVML and the kernel's log together: what is wrong with the GPUs of one server.

Xids come at once and NVML's recovery action a little later, but the action is the driver's own sum of them and knows
when a fault is over. So an Xid counts by itself only until NVML has been looked at after it.

HostSignals is for the resident keeper, one for all instances; `before_start` is for the gate, which lives for one
question.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vllm_keeper.signals import GpuFault, Once, gpu, kernel_log, worst, xid
from vllm_keeper.signals.gpu_reader import Reader, Sampler

KEPT = 500  # Xids: a GPU that dies writes a few dozen
MIB = 1 << 20


@dataclass(frozen=True)
class Reported:
    """An Xid, and when it was read, on the keeper's own steady clock."""

    xid: xid.Xid
    at: float


def combine(
    readings: gpu.Readings | None,
    looked_at: float,
    baseline: gpu.Readings | None,
    reported: Iterable[Reported],
    settings: gpu.Settings,
    table: xid.Table,
    pids: Collection[int],
) -> list[GpuFault]:
    """Pure. READINGS: of the server's GPUs only, taken at LOOKED_AT; None: not yet. REPORTED: since it was started."""
    found = [] if readings is None else gpu.faults(readings, baseline, settings, table)
    gpus = readings.gpus if readings is not None and readings.state == gpu.OK else ()
    known = baseline.gpus if baseline is not None else ()
    slots = {one.slot for one in (*gpus, *known) if one.slot}
    ours = [one for one in reported if not slots or not one.xid.slot or one.xid.slot in slots]
    for one, fault in zip(ours, xid.faults([one.xid for one in ours], table, None, pids)):
        if fault.urgent and not slots and one.xid.pid not in pids:
            # Without NVML nobody can say whose GPU it is, and another one's fault must not end this server.
            found.append(replace(fault, evidence=f"{fault.evidence}; whose GPU it is cannot be told", urgent=False))
        else:
            found.append(_settled(fault, one, gpus, looked_at))
    return found


def _settled(fault: GpuFault, one: Reported, gpus: Iterable[gpu.Gpu], looked_at: float) -> GpuFault:
    """The Xid's fault, unless NVML has been looked at since and asks for nothing."""
    if fault.remedy not in ("reset_gpu", "reboot") or looked_at <= one.at:
        return fault
    here = [found for found in gpus if found.slot == one.xid.slot]
    if not here or any(found.recovery_action != 0 or found.error for found in here):
        return fault
    evidence = f"{fault.evidence}; NVML asks for nothing since"
    return replace(fault, evidence=evidence, remedy="restart_application", urgent=False)


def still_held(gpus: Iterable[gpu.Gpu], settings: gpu.Settings) -> str:
    """What holds memory that the next start needs and that no living process accounts for; "" for nothing."""
    held = [
        f"GPU {one.index}: {one.unattributed // MIB} MiB are held by no living process"
        for one in gpus
        if one.unattributed is not None and one.unattributed > settings.unattributed * MIB
    ]
    return "; ".join(held)


@dataclass
class _Server:
    pid: int
    begun: float  # on our clock
    baseline: gpu.Readings | None = None


def _of(baseline: gpu.Readings | None, latest: gpu.Readings, devices: Sequence[str] | None) -> gpu.Readings:
    if baseline is None:
        return gpu.chosen(latest, devices)
    # By what they were at the start: when a GPU is lost, the numbers of the others may move up.
    uuids, lost = {one.uuid for one in baseline.gpus}, {one.index for one in baseline.gpus}
    mine = [one for one in latest.gpus if one.uuid in uuids or (not one.uuid and one.index in lost)]
    return replace(latest, gpus=tuple(mine))


class HostSignals:
    """For several threads."""

    def __init__(
        self,
        settings: gpu.Settings,
        table: xid.Table | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settings, self._monotonic = settings, monotonic
        self.table = table or xid.load()
        self.sampler = Sampler(Reader(settings, monotonic=monotonic), settings.interval, monotonic)
        self._log = kernel_log.KernelLog(Path(settings.kernel_log), monotonic=monotonic)
        self._reported: deque[Reported] = deque(maxlen=KEPT)
        self._servers: dict[str, _Server] = {}
        self._lock = threading.Lock()
        self._once = Once()

    def start(self) -> None:
        with self._lock:
            self._poll()  # from here on
        self.sampler.start()

    def stop(self) -> None:
        self.sampler.stop()
        with self._lock:
            self._log.close()

    def faults(
        self, name: str, pid: int, age: float | None, devices: Sequence[str] | None, pids: Collection[int]
    ) -> list[GpuFault]:
        """What is wrong with the GPUs of the server NAME, whose main process PID is AGE seconds old. Never waits.

        PIDS: its processes. DEVICES: its CUDA_VISIBLE_DEVICES, None for every GPU.
        """
        now = self._monotonic()
        latest, looked = self.sampler.latest()
        readings = None
        with self._lock:
            self._poll()
            server = self._servers.get(name)
            if server is None or server.pid != pid:
                server = self._servers[name] = _Server(pid, now - (age or 0.0))
            if latest is not None:
                readings = _of(server.baseline, latest, devices)
            if server.baseline is None and readings is not None and readings.state == gpu.OK:
                server.baseline = readings
            reported = [one for one in self._reported if one.at >= server.begun]
            baseline = server.baseline
        return combine(readings, now - looked, baseline, reported, self.settings, self.table, pids)

    def used(self, devices: Sequence[str] | None) -> int | None:
        """Bytes in use on these GPUs; None where that is not told now. Never waits."""
        latest, age = self.sampler.latest()
        if latest is None or latest.state != gpu.OK or age > 2 * self.settings.interval + self.settings.deadline:
            return None
        memories = [one.memory for one in gpu.chosen(latest, devices).gpus]
        known = [one.used for one in memories if one is not None]
        return sum(known) if known and len(known) == len(memories) else None

    def forget(self, name: str) -> None:
        with self._lock:
            self._servers.pop(name, None)

    def news(self) -> list[str]:
        """What is to be told of the signals themselves: once, and again when it changes."""
        latest, _age = self.sampler.latest()
        with self._lock:
            told = [
                ("log", self._log.problem, "the kernel's log can be read again"),
                ("table", self.table.problem, ""),
            ]
            if latest is not None:
                words = "" if latest.state == gpu.OK else f"GPUs are not read: {latest.detail}"
                told.append(("gpu", words, "GPUs are read again"))
                stand_in = f"GPU readings come from {latest.library}, not from NVML" if latest.library else ""
                told.append(("library", stand_in, ""))
            return [
                text or again for subject, text, again in told if self._once.news(subject, text) and (text or again)
            ]

    def _poll(self) -> None:
        now = self._monotonic()
        self._reported.extend(Reported(one, now) for one in kernel_log.xids(self._log.poll()))


@dataclass(frozen=True)
class Before:
    """What the gate wants to know. devices: UUIDs of the instance's GPUs, for a reset."""

    faults: tuple[GpuFault, ...] = ()
    devices: tuple[str, ...] = ()
    held: str = ""

    @property
    def calls_for(self) -> str:
        """The remedy that the next start needs first; "" for none."""
        found = worst(self.faults)
        return "" if found is None or found.remedy in ("ignore", "restart_application") else found.remedy


def before_start(
    settings: gpu.Settings,
    since: float | None = None,
    reader: Reader | None = None,
    monotonic: Callable[[], float] = time.monotonic,
) -> Before:
    """One look, within the deadline. SINCE: seconds since the run began that has ended; None: there was none.

    The kernel's log is only asked where the driver is too old to sum up by itself: its lines stay after a reset.
    """
    reader = reader or Reader(settings)
    table = xid.load()
    try:
        readings = gpu.chosen(reader.read(), settings.devices)
    finally:
        reader.close()
    faults = gpu.faults(readings, None, settings, table)
    sums_up = bool(readings.gpus) and all(one.recovery_action is not None for one in readings.gpus)
    if since is not None and not sums_up and readings.state != gpu.ABSENT:
        log = kernel_log.KernelLog(Path(settings.kernel_log), after=-1)
        begun = monotonic() - since
        lines = [line for line in log.poll() if line.at is None or line.at >= begun]
        log.close()
        slots = {one.slot for one in readings.gpus if one.slot}
        faults += xid.faults(kernel_log.xids(lines), table, slots)
    devices = tuple(one.uuid for one in readings.gpus if one.uuid)
    return Before(tuple(faults), devices, still_held(readings.gpus, settings))
