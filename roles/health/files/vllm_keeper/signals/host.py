# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The host under the servers: memory, disks, clock. Thin reads, and pure functions that say what is short or wrong."""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vllm_keeper.config import Reader  # which imports this

GIB = 1 << 30
PROC = Path("/proc")
WARNING, CRITICAL = "warning", "critical"


@dataclass(frozen=True)
class Settings:
    """memory and disk: GiB left. pressure: percent of the last ten seconds in which nothing ran for want of memory."""

    memory_warning: float = 2
    memory_critical: float = 0.5
    pressure_warning: float = 10
    pressure_critical: float = 40
    disk_warning: float = 5
    disk_critical: float = 1
    disk_deadline: float = 5
    clock_jump: float = 5  # seconds
    clock_error: float = 10  # seconds that the clock may be off by its own account


def read(reader: Reader) -> Settings:
    """The mapping `host` of an instance's configuration; its problems go to READER."""
    default = Settings()
    return Settings(
        memory_warning=reader.number("memory_warning", default.memory_warning, 0, 1 << 20),
        memory_critical=reader.number("memory_critical", default.memory_critical, 0, 1 << 20),
        pressure_warning=reader.number("pressure_warning", default.pressure_warning, 0, 100),
        pressure_critical=reader.number("pressure_critical", default.pressure_critical, 0, 100),
        disk_warning=reader.number("disk_warning", default.disk_warning, 0, 1 << 20),
        disk_critical=reader.number("disk_critical", default.disk_critical, 0, 1 << 20),
        disk_deadline=reader.number("disk_deadline", default.disk_deadline, 0.1, 600),
        clock_jump=reader.number("clock_jump", default.clock_jump, 0.1, 86400),
        clock_error=reader.number("clock_error", default.clock_error, 0.01, 86400),
    )


@dataclass(frozen=True)
class Finding:
    """subject: memory | pressure | disk <path> | clock. level: warning | critical."""

    subject: str
    level: str
    evidence: str
    advice: str = ""


# Memory


@dataclass(frozen=True)
class Memory:
    """Bytes, and percent of time (PSI). None where this kernel does not tell."""

    total: int
    available: int
    some: float | None = None
    full: float | None = None


def memory(proc: Path = PROC) -> Memory | None:
    """What the kernel says; None where /proc cannot be read."""
    try:
        told = _meminfo((proc / "meminfo").read_text(encoding="ascii", errors="replace"))
    except OSError:
        return None
    pressure: tuple[float | None, float | None] = (None, None)
    # Absent before Linux 4.20, and EOPNOTSUPP where it is compiled in and switched off.
    with contextlib.suppress(OSError):
        pressure = _pressure((proc / "pressure/memory").read_text(encoding="ascii", errors="replace"))
    total, available = told.get("MemTotal"), told.get("MemAvailable")
    return None if total is None or available is None else Memory(total, available, *pressure)


def _meminfo(text: str) -> dict[str, int]:
    found = {}
    for line in text.splitlines():
        key, _separator, value = line.partition(":")
        words = value.split()
        if words and words[0].isdigit():
            found[key] = int(words[0]) * (1024 if words[1:] == ["kB"] else 1)
    return found


def _pressure(text: str) -> tuple[float | None, float | None]:
    shares: dict[str, float] = {}
    for line in text.splitlines():
        words = line.split()
        for word in words[1:]:
            key, _separator, value = word.partition("=")
            if key == "avg10":
                with contextlib.suppress(ValueError):
                    shares[words[0]] = float(value)
    return shares.get("some"), shares.get("full")


def judge_memory(seen: Memory | None, settings: Settings) -> list[Finding]:
    if seen is None:
        return []
    found = []
    left = seen.available / GIB
    level = _below(left, settings.memory_warning, settings.memory_critical)
    if level:
        evidence = f"{left:.1f} GiB of {seen.total / GIB:.1f} GiB can still be had"
        found.append(Finding("memory", level, evidence, "the kernel kills when it is gone: see what uses it"))
    if seen.full is not None:
        level = _below(-seen.full, -settings.pressure_warning, -settings.pressure_critical)
        if level:
            evidence = f"nothing ran for want of memory for {seen.full:.0f} % of the last ten seconds"
            found.append(Finding("pressure", level, evidence, "the host swaps or reads its programs again and again"))
    return found


def _below(value: float, warning: float, critical: float) -> str:
    return CRITICAL if value < critical else WARNING if value < warning else ""


# Disks


@dataclass(frozen=True)
class Disk:
    """Bytes and inodes for an ordinary user. stuck: seconds that it has not answered for, as an NFS whose server went.

    files_total 0: this file system has no bound on them.
    """

    path: str
    total: int = 0
    available: int = 0
    files_total: int = 0
    files_available: int = 0
    read_only: bool = False
    stuck: float = 0.0
    problem: str = ""


def look_at(path: str, statvfs: Callable[[str], os.statvfs_result] = os.statvfs) -> Disk:
    """The disk that a path is on, or will be once it is made."""
    place = path
    while True:
        try:
            seen = statvfs(place)
        except (FileNotFoundError, NotADirectoryError):
            above = os.path.dirname(place)
            if above == place:
                return Disk(path, problem="no part of this path exists")
            place = above
        except OSError as error:
            return Disk(path, problem=error.strerror or str(error))
        else:
            return Disk(
                path,
                seen.f_blocks * seen.f_frsize,
                seen.f_bavail * seen.f_frsize,
                seen.f_files,
                seen.f_favail,
                bool(seen.f_flag & os.ST_RDONLY),
            )


class Disks:
    """Looks at disks in threads: a call into an NFS whose server is gone can last for ever."""

    def __init__(self, look: Callable[[str], Disk] = look_at, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._look, self._monotonic = look, monotonic
        self._running: dict[str, tuple[threading.Thread, float]] = {}
        self._seen: dict[str, Disk] = {}

    def read(self, paths: Iterable[str], within: float) -> list[Disk]:
        """All of them, within the deadline; whoever has not answered by then is told as stuck."""
        begun = self._monotonic()
        wanted = list(dict.fromkeys(paths))
        for path in wanted:
            thread, _begun = self._running.get(path, (None, 0.0))
            if thread is None or not thread.is_alive():  # one that hangs is not joined by a second one
                self._seen.pop(path, None)
                thread = threading.Thread(target=self._one, args=(path,), name=f"disk {path}", daemon=True)
                self._running[path] = (thread, begun)
                thread.start()
        found = []
        for path in wanted:
            thread, since = self._running[path]
            thread.join(max(0.0, begun + within - self._monotonic()))
            if thread.is_alive():
                found.append(Disk(path, stuck=max(self._monotonic() - since, 0.001)))
            else:
                found.append(self._seen.get(path, Disk(path, problem="could not be looked at")))
        return found

    def _one(self, path: str) -> None:
        self._seen[path] = self._look(path)


def judge_disks(seen: Iterable[Disk], settings: Settings, written: Iterable[str] = ()) -> list[Finding]:
    """WRITTEN: the paths that are written to; the others (models) may well be full or read-only."""
    written = set(written)
    found = []
    for disk in seen:
        subject = f"disk {disk.path}"
        if disk.stuck:
            evidence = f"no answer for {disk.stuck:.0f} s"
            found.append(
                Finding(subject, CRITICAL, evidence, "look at the mount: is the server of a network disk gone?")
            )
        elif disk.problem:
            found.append(Finding(subject, WARNING, disk.problem, "check the path in the instance"))
        elif disk.path in written:
            found += _judge_space(subject, disk, settings)
    return found


def _judge_space(subject: str, disk: Disk, settings: Settings) -> list[Finding]:
    if disk.read_only:
        return [Finding(subject, CRITICAL, "it is mounted read-only", "after a disk error? see the kernel's log")]
    # A disk that is smaller than the threshold as a whole is judged by its own size.
    size = disk.total / GIB
    warning, critical = min(settings.disk_warning, size / 10), min(settings.disk_critical, size / 50)
    left = disk.available / GIB
    level = _below(left, warning, critical)
    if level:
        return [Finding(subject, level, f"{left:.2f} GiB of {size:.1f} GiB are free", "make room or a larger disk")]
    if disk.files_total and disk.files_available < disk.files_total / 100:
        evidence = f"{disk.files_available} of {disk.files_total} inodes are free"
        return [Finding(subject, WARNING, evidence, "too many small files: remove some")]
    return []


# Clock


@dataclass(frozen=True)
class Clock:
    """wall: seconds since 1970. steady: a clock that nobody sets. None: the kernel could not be asked."""

    wall: float
    steady: float
    synchronised: bool | None = None
    error: float | None = None  # seconds, by the account of whoever disciplines the clock


class _Timex(ctypes.Structure):
    # struct timex of <sys/timex.h>; the tail is room that the kernel may use.
    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("constant", ctypes.c_long),
        ("precision", ctypes.c_long),
        ("tolerance", ctypes.c_long),
        ("room", ctypes.c_long * 32),
    )


TIME_ERROR, UNSYNCHRONISED = 5, 0x40


def clock() -> Clock:
    """The clocks, and whether somebody keeps the wall clock right. Asks only: modes is 0."""
    wall, steady = time.time(), time.clock_gettime(time.CLOCK_BOOTTIME)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        asked = _Timex()
        state = int(libc.adjtimex(ctypes.byref(asked)))
    except (OSError, AttributeError):
        return Clock(wall, steady)
    if state < 0:
        return Clock(wall, steady)
    synchronised = state != TIME_ERROR and not asked.status & UNSYNCHRONISED
    return Clock(wall, steady, synchronised, asked.maxerror / 1e6 if synchronised else None)


def jump(before: Clock, now: Clock) -> float:
    """Seconds by which the wall clock was set between two readings; forward is positive."""
    return (now.wall - before.wall) - (now.steady - before.steady)


def judge_clock(before: Clock | None, now: Clock, settings: Settings) -> list[Finding]:
    """before None: there is nothing yet to compare with."""
    found = []
    by = 0.0 if before is None else jump(before, now)
    if abs(by) > settings.clock_jump:
        way = "forward" if by > 0 else "back"
        evidence = f"the wall clock was set {way} by {abs(by):.1f} s"
        found.append(Finding("clock", WARNING, evidence, "ages are taken from another clock; only log times are off"))
    if now.synchronised is False:
        found.append(
            Finding(
                "clock", WARNING, "nobody keeps the clock right", "run chrony or systemd-timesyncd: TLS and AWS need it"
            )
        )
    elif now.error is not None and now.error > settings.clock_error:
        evidence = f"it may be off by {now.error:.1f} s by its own account"
        found.append(Finding("clock", WARNING, evidence, "are the time servers within reach?"))
    return found


def by_subject(findings: Iterable[Finding]) -> Mapping[str, Finding]:
    """The worst of each subject, for a metric or a status line."""
    found: dict[str, Finding] = {}
    for one in findings:
        if one.subject not in found or one.level == CRITICAL:
            found[one.subject] = one
    return found
