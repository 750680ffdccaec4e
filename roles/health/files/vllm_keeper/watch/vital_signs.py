# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the processes of a start did since the look before, as the kernel counts it. Read only while a start loads.

Each number stands by itself: where one cannot be read it is None, and the others are told all the same. A counter that
belongs to one process or socket is compared with what that one had, so an end takes nothing away from the sum.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Optional, TypeVar

from vllm_keeper import processes

TICK = os.sysconf("SC_CLK_TCK")
STOPPED = "T"  # by a signal. Not "t", which is a debugger's: that one goes on when the debugger says so
RUNNABLE, DISK = "R", "D"  # a thread that waits for a CPU; nearly always for a disk
SOCKET = re.compile(r"socket:\[(\d+)\]$")
# What is opened by who uses a GPU or another accelerator.
ACCELERATOR = re.compile(r"/dev/(nvidia\d|nvidia-caps/|kfd$|dri/|accel|vfio/|davinci|hl|neuron)")
# A lock of FlashInfer, vLLM, torch and its compilers, the hub; and of a model, in the folder for what is temporary.
LOCK = re.compile(
    r"(?i)(flashinfer|\.cache/vllm|torch|inductor|triton|huggingface|cuda|deep_gemm).*(\.lock|/lock)$"
    r"|^/tmp/[^/]*\.lock$"
)

# sock_diag(7): one request for all TCP sockets of a family, with their struct tcp_info.
NETLINK_SOCK_DIAG, SOCK_DIAG_BY_FAMILY, DUMP = 4, 20, 0x301
DONE, ERROR = 3, 2
INFO = 2  # INET_DIAG_INFO
HEADER, MESSAGE, INODE = 16, 72, 68  # bytes of nlmsghdr and inet_diag_msg; where the latter has its inode
RECEIVED = 128  # where struct tcp_info has tcpi_bytes_received
NETLINK_WAIT = 1.0

LONGEST_PATH = 200  # characters, of one that is shown

Key = TypeVar("Key")
Counts = Optional[Mapping[Key, int]]


@dataclass(frozen=True)
class Signs:
    """Since the look before; None: not known. A process that is new did all that it has done since then.

    changed: whether a process came or went. runnable, disk: whether a thread waits for a CPU or a disk now.
    cpu: seconds. read, written: bytes, by calls or from and to disks. faults: pages that had to be fetched. received:
    bytes, on TCP.
    gpu: bytes of GPU memory by which what is held differs. stopped: processes that SIGSTOP holds, now. lock: a file
    *.lock that somebody else has open, "" for none, None where nobody looked.
    """

    changed: bool | None = None
    runnable: bool | None = None
    disk: bool | None = None
    cpu: float | None = None
    read: float | None = None
    written: float | None = None
    faults: float | None = None
    received: float | None = None
    gpu: float | None = None
    stopped: Mapping[int, str] | None = None
    lock: str | None = None


@dataclass(frozen=True)
class _One:
    """A process, and the counters that it had."""

    state: str
    ticks: int
    faults: int


class VitalSigns:
    """Of one start, from look to look. GPU_MEMORY: bytes in use on the instance's GPUs, None where it is not told."""

    def __init__(self, proc: Path = processes.PROC, gpu_memory: Callable[[], int | None] = lambda: None) -> None:
        self.proc, self._gpu_memory = proc, gpu_memory
        self.forget()

    def forget(self) -> None:
        self._pid = 0
        self._members: frozenset[tuple[int, int]] | None = None
        self._seen: dict[int, _One] = {}
        self._moved: dict[int, tuple[int, int]] | None = None
        self._received: Mapping[tuple[str, int], int] | None = None
        self._held: int | None = None

    def look(self, pid: int, locks: bool = False) -> Signs:
        """LOCKS: whether to look for lock files that others have open, for which all processes are looked at."""
        if pid != self._pid:
            self.forget()
            self._pid = pid
        kin = processes.kin(pid, self.proc)
        if pid not in kin:
            return Signs()  # it has just ended, or is not ours to see: then nothing is known
        seen = {one: found for one in kin if (found := _stat(self.proc, one)) is not None}
        before, self._seen = self._seen, seen
        members = frozenset((one.pid, one.born) for one in kin.values())
        known, self._members = self._members, members
        ticks = sum(one.ticks - (before[pid].ticks if pid in before else 0) for pid, one in seen.items())
        faults = sum(one.faults - (before[pid].faults if pid in before else 0) for pid, one in seen.items())
        states = set[str]().union(*(_states(self.proc, one) for one in kin))
        open_files = {one: _open(self.proc, one) for one in kin}
        read, written = self._input_output(kin)
        return Signs(
            changed=known is None or known != members,
            runnable=RUNNABLE in states,
            disk=DISK in states,
            cpu=max(0, ticks) / TICK,
            read=read,
            written=written,
            faults=max(0, faults),
            received=self._network(open_files),
            gpu=self._gpu(open_files.values()),
            stopped={one: _name(kin[one]) for one in seen if _held(seen[one], before.get(one))},
            lock=lock_of_another(self.proc, kin) if locks else None,
        )

    def _input_output(self, kin: Iterable[int]) -> tuple[float | None, float | None]:
        moved = {one: _io(self.proc, one) for one in kin}
        if any(found is None for found in moved.values()):
            return None, None
        now = {one: found for one, found in moved.items() if found is not None}
        before, self._moved = self._moved or {}, now
        none = (0, 0)
        return (
            sum(max(0, found[0] - before.get(one, none)[0]) for one, found in now.items()),
            sum(max(0, found[1] - before.get(one, none)[1]) for one, found in now.items()),
        )

    def _network(self, open_files: Mapping[int, Sequence[str] | None]) -> float | None:
        now: dict[tuple[str, int], int] = {}
        inodes: dict[str, set[int]] = {}
        for pid, files in open_files.items():
            space = _link(f"{self.proc}/{pid}/ns/net")
            if files is None or not space:
                return None
            found = (SOCKET.match(file) for file in files)
            inodes.setdefault(space, set()).update(int(one[1]) for one in found if one)
            if space != _link(f"{self.proc}/self/ns/net"):
                # A container's: all that its network receives is its own.
                bytes_in = _interfaces(self.proc, pid)
                if bytes_in is None:
                    return None
                now[(space, 0)] = bytes_in
        mine = _link(f"{self.proc}/self/ns/net")
        if inodes.get(mine):
            counted = received()
            if counted is None:
                return None
            now.update(((mine, inode), counted[inode]) for inode in inodes[mine] & set(counted))
        before, self._received = self._received, now
        return sum(max(0, count - (before or {}).get(key, 0)) for key, count in now.items())

    def _gpu(self, open_files: Iterable[Sequence[str] | None]) -> float | None:
        files = list(open_files)
        if any(one is None for one in files):
            return None
        if not any(ACCELERATOR.match(file) for one in files for file in one or ()):
            return 0.0  # who has opened none holds no memory of one
        held = self._gpu_memory()
        if held is None:
            return None
        before, self._held = self._held, held
        return float(abs(held - (before or 0)))


def received() -> dict[int, int] | None:
    """{inode: bytes received} of the TCP sockets of our own network; None where the kernel does not tell."""
    found: dict[int, int] = {}
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_SOCK_DIAG) as link:
            link.settimeout(NETLINK_WAIT)
            for family in (socket.AF_INET, socket.AF_INET6):
                body = struct.pack("=BBBxI", family, socket.IPPROTO_TCP, 1 << (INFO - 1), 0xFFFFFFFF) + bytes(48)
                link.send(struct.pack("=IHHII", HEADER + len(body), SOCK_DIAG_BY_FAMILY, DUMP, 1, 0) + body)
                while _take(link.recv(1 << 18), found):
                    pass
    except (OSError, AttributeError, struct.error, ValueError):
        return None
    return found


def _take(data: bytes, found: dict[int, int]) -> bool:
    """What one datagram says; whether more are to come. ValueError: the kernel does not tell what we ask for."""
    at = 0
    while at + HEADER <= len(data):
        length, kind = struct.unpack_from("=IH", data, at)
        if kind == DONE:
            # Without the module tcp_diag the kernel lists nothing, and says why only here.
            if length >= HEADER + 4 and struct.unpack_from("=i", data, at + HEADER)[0] < 0:
                raise ValueError("no list")
            return False
        if kind == ERROR or length < HEADER + MESSAGE:
            raise ValueError("no answer")
        inode = struct.unpack_from("=I", data, at + HEADER + INODE)[0]
        count = _attribute(data[at + HEADER + MESSAGE : at + length])
        if count is not None:
            found[inode] = count
        at += (length + 3) & ~3
    return True


def _attribute(data: bytes) -> int | None:
    at = 0
    while at + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, at)
        if kind == INFO:
            if length < 4 + RECEIVED + 8:
                raise ValueError("a kernel before 4.1")
            count: int = struct.unpack_from("=Q", data, at + 4 + RECEIVED)[0]
            return count
        at += (max(4, length) + 3) & ~3
    return None  # a socket in TIME_WAIT


def lock_of_another(proc: Path, ours: Iterable[int]) -> str | None:
    """A lock of what a start compiles or fetches, open in a process of the same account that is none of OURS; "" for
    none, None where that is unknown.

    Whoever waits for one (filelock, torch's file baton) opens it for a moment only or not at all, so that it waits
    cannot be seen: that there is something to wait for has to do.
    """
    family = set(ours)
    try:
        owners = {os.stat(f"{proc}/{pid}").st_uid for pid in family}
        everyone = [int(name) for name in os.listdir(proc) if name.isdigit()]
    except OSError:
        return None
    for pid in set(everyone) - family:
        for file in _open(proc, pid) or ():
            if not LOCK.search(file) or file.startswith(("/run/", "/var/run/")):  # the keeper's own
                continue
            with contextlib.suppress(OSError):
                if os.stat(f"{proc}/{pid}").st_uid in owners:
                    return _plain(file[:LONGEST_PATH])
    return ""


def _held(now: _One, before: _One | None) -> bool:
    """Whether SIGSTOP holds it. cpulimit, to slow it down, stops it again and again, and it goes on in between."""
    return now.state == STOPPED and (before is None or before.ticks == now.ticks)


def _plain(text: str) -> str:
    """Fit for a log and a terminal: a server may call its processes and files what it likes."""
    return "".join(one if one.isprintable() else "?" for one in text)


def _name(process: processes.Process) -> str:
    """`python3 vllm serve`, `VLLM::EngineCore`: what it runs, without folders and options."""
    words = " ".join(os.path.basename(word) for word in process.command[:3] if not word.startswith("-"))
    return _plain(words[:60]) or "?"


def _stat(proc: Path, pid: int) -> _One | None:
    """Its first thread's state; what it and the children that it has waited for have used; None once it has ended."""
    try:
        with open(f"{proc}/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b") ")[2].split()
        return _One(fields[0].decode(), sum(map(int, fields[11:15])), int(fields[9]) + int(fields[10]))
    except (OSError, ValueError, IndexError):
        return None


def _states(proc: Path, pid: int) -> set[str]:
    """Of all its threads; none once it has ended."""
    found, tasks = set[str](), f"{proc}/{pid}/task"
    with contextlib.suppress(OSError):
        for task in os.listdir(tasks):
            with contextlib.suppress(OSError), open(f"{tasks}/{task}/stat", "rb") as file:
                found.add(file.read().rpartition(b") ")[2][:1].decode())
    return found


def _io(proc: Path, pid: int) -> tuple[int, int] | None:
    """(bytes read, bytes written), by calls and by disks; zeros once it has ended, None where it is not ours to see."""
    try:
        with open(f"{proc}/{pid}/io", encoding="ascii") as file:
            told = dict(line.split(": ") for line in file.read().splitlines())
        return int(told["rchar"]) + int(told["read_bytes"]), int(told["wchar"]) + int(told["write_bytes"])
    except (FileNotFoundError, ProcessLookupError):
        # Ended meanwhile, or a kernel that does not count: the folder tells which.
        return None if os.path.isdir(f"{proc}/{pid}") else (0, 0)
    except (OSError, ValueError, KeyError):
        return None


def _open(proc: Path, pid: int) -> list[str] | None:
    folder = f"{proc}/{pid}/fd"
    try:
        return [_link(f"{folder}/{one}") for one in os.listdir(folder)]
    except (FileNotFoundError, ProcessLookupError):
        return []
    except OSError:
        return None


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


def _interfaces(proc: Path, pid: int) -> int | None:
    """Bytes that all interfaces of its network have received."""
    try:
        with open(f"{proc}/{pid}/net/dev", encoding="ascii") as file:
            return sum(int(line.partition(":")[2].split()[0]) for line in file.read().splitlines()[2:])
    except (OSError, ValueError, IndexError):
        return None
