# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the kernel and the driver show of the server: processes, threads, CPU, memory of the GPU."""

from __future__ import annotations

import contextlib
import os
import re
import threading
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from vllm_keeper import processes
from vllm_keeper.signals import gpu, gpu_reader

MIB = 2**20
GPU_DEADLINE = 5.0


def threads(pid: int) -> dict[str, int]:
    """How many threads are in each state."""
    found: dict[str, int] = {}
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError, IndexError):
                state = Path(f"/proc/{pid}/task/{task}/stat").read_text().rpartition(") ")[2][0]
                found[state] = found.get(state, 0) + 1
    return found


def cpu(pids: Collection[int]) -> float:
    """CPU seconds of all their threads, by the scheduler's own count of nanoseconds."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            for task in os.listdir(f"/proc/{pid}/task"):
                with contextlib.suppress(OSError, IndexError, ValueError):
                    total += int(Path(f"/proc/{pid}/task/{task}/schedstat").read_text().split()[0])
    return total / 1e9


def _io(pid: int) -> dict[str, int]:
    """Bytes asked for and bytes that came from or went to a disk, since it began."""
    with contextlib.suppress(OSError, ValueError):
        pairs = (line.split(": ") for line in Path(f"/proc/{pid}/io").read_text().splitlines())
        return {name: int(value) for name, value in pairs if name in ("rchar", "wchar", "read_bytes", "write_bytes")}
    return {}


def _rss(pid: int) -> int | None:
    with contextlib.suppress(OSError):
        match = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
        return int(match[1]) >> 10 if match else None
    return None


def process(one: processes.Process, whole: bool) -> dict[str, Any]:
    """ticks: of CPU, all threads together. WHOLE: title, memory and the like too."""
    state, ticks, wait = "", None, ""
    with contextlib.suppress(OSError, IndexError, ValueError):
        fields = Path(f"/proc/{one.pid}/stat").read_text().rpartition(") ")[2].split()
        state, ticks = fields[0], int(fields[11]) + int(fields[12])
    row: dict[str, Any] = {"pid": one.pid, "state": state, "ticks": ticks, "threads": threads(one.pid)}
    if whole:
        comm = ""
        with contextlib.suppress(OSError):
            comm = Path(f"/proc/{one.pid}/comm").read_text().strip()
            wait = Path(f"/proc/{one.pid}/wchan").read_text().strip()
        row |= {
            "parent": one.parent, "group": one.group, "session": one.session, "title": one.title, "comm": comm,
            "rss_mib": _rss(one.pid), "waits_in": wait,
        }  # fmt: skip
    return row


class Tree(threading.Thread):
    """Samples of some processes: the first with all there is to say of each, the others with what changes."""

    def __init__(self, mine: Callable[[], list[processes.Process]], every: float, io: bool = False) -> None:
        super().__init__(daemon=True)
        self.mine, self.every, self.io = mine, every, io
        self.samples: list[dict[str, Any]] = []
        self.notes: Callable[[], dict[str, Any]] = dict
        self.begun = time.monotonic()
        self.ended = threading.Event()

    def run(self) -> None:
        known: set[int] = set()
        while not self.ended.is_set():
            at, rows = time.monotonic() - self.begun, []
            with contextlib.suppress(OSError):
                for one in self.mine():
                    row = process(one, one.pid not in known)
                    rows.append(row | ({"io": _io(one.pid)} if self.io else {}))
                known = {row["pid"] for row in rows if row.get("title") != "?"} | known
            self.samples.append({"at": round(at, 2), "processes": rows, **self.notes()})
            self.ended.wait(self.every)

    def stop(self) -> list[dict[str, Any]]:
        self.ended.set()
        self.join(5)
        return self.samples


class Memory:
    """The memory of the first GPU, asked as the keeper asks it. None where there is none to ask."""

    def __init__(self, python: str) -> None:
        settings = gpu.Settings(
            enabled=bool(python), python=python or "/nonexistent", deadline=GPU_DEADLINE, retry=3600
        )
        self.reader, self.lock, self.problem = gpu_reader.Reader(settings), threading.Lock(), ""

    def look(self) -> gpu.Readings:
        with self.lock:
            readings = self.reader.read()
        self.problem = "" if readings.state == gpu.OK else f"{readings.state}: {readings.detail}"
        return readings

    def first(self) -> gpu.Gpu | None:
        readings = self.look()
        return readings.gpus[0] if readings.state == gpu.OK and readings.gpus else None

    def used(self) -> int | None:
        """MiB in use, without what the driver reserves."""
        one = self.first()
        return None if one is None or one.memory is None else one.memory.used // MIB

    def seen(self) -> dict[str, Any]:
        """In MiB, without anything that tells one card from another."""
        one = self.first()
        if one is None or one.memory is None:
            return {"problem": self.problem or "no GPU"}
        held = {str(each.pid): None if each.used is None else each.used // MIB for each in one.processes or ()}
        return {
            "name": one.name, "total_mib": one.memory.total // MIB, "used_mib": one.memory.used // MIB,
            "reserved_mib": None if one.memory.reserved is None else one.memory.reserved // MIB, "processes_mib": held,
        }  # fmt: skip

    def close(self) -> None:
        with self.lock:
            self.reader.close()


class Samples(threading.Thread):
    """Of that memory, over time."""

    def __init__(self, memory: Memory, every: float = 0.25) -> None:
        super().__init__(daemon=True)
        self.memory, self.every, self.begun = memory, every, time.monotonic()
        self.rows: list[tuple[float, int]] = []
        self.ended = threading.Event()

    def run(self) -> None:
        while not self.ended.wait(self.every):
            used = self.memory.used()
            if used is not None:
                self.rows.append((round(time.monotonic() - self.begun, 2), used))

    def stop(self) -> dict[str, Any]:
        self.ended.set()
        self.join(GPU_DEADLINE + 2)
        changes: list[tuple[float, int]] = []
        for at, used in self.rows:
            if not changes or abs(used - changes[-1][1]) >= 256:
                changes.append((at, used))
        return {"most_mib": max((used for _at, used in self.rows), default=None), "changes": changes[:120]}
