# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a server's processes use or want a CPU: what tells a long step from a hang. Read only while in doubt.

A process counts as active when it has used a CPU for a tenth of the time, or one of its threads is runnable (it waits
for a CPU that others have) or waits for a disk. A deadlocked one is none of these. But one that waits for another by
spinning is, as vLLM's workers do all the time. So activity proves nothing, it only buys time; and where one of them is
stopped (SIGSTOP, a debugger), none of the others can go on, however they spin.

Nor does it prove anything that all are idle: who waits for a GPU sleeps. (vLLM 0.32 with one H100: while a kernel ran
that did not end, all 120 threads of its engine slept and used 0.03 of a core.) So a long step of a GPU looks like a
hang from here, and how long such steps take has to be known: vllm_keeper.watch.steps.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from vllm_keeper import processes

TICK = os.sysconf("SC_CLK_TCK")
SHARE = 0.1
STOPPED = "Tt"  # by a signal, by a debugger
WANTS = "RD"  # runnable; uninterruptible, which is nearly always a disk


class Activity:
    """Of some processes, since the look before."""

    def __init__(self, proc: Path = processes.PROC) -> None:
        self.proc = proc
        self._used: dict[int, int] = {}
        self._at: float | None = None

    def look(self, pids: Iterable[int], at: float) -> bool | None:
        """None at the first look: there is nothing to compare with yet, and no thread that wants a CPU."""
        seen = {pid: found for pid in pids if (found := self._read(pid)) is not None}
        used = {pid: ticks for pid, (_state, ticks) in seen.items()}
        before, since = self._used, self._at
        self._used, self._at = used, at
        if any(state in STOPPED for state, _ticks in seen.values()):
            return False
        # One that is new has used whatever it has used since.
        spent = sum(ticks - before.get(pid, 0) for pid, ticks in used.items()) / TICK
        span = 0.0 if since is None else at - since
        if 0 < SHARE * span <= spent:
            return True
        # Of each of vLLM's some hundred threads a file is read: only where that decides.
        if any(self._wants(pid) for pid in used):
            return True
        return False if span > 0 else None

    def forget(self) -> None:
        self._used, self._at = {}, None

    def _read(self, pid: int) -> tuple[str, int] | None:
        """Its first thread's state, and the ticks that all of them have used; None once it has ended."""
        try:
            fields = _fields(f"{self.proc}/{pid}/stat")
            return fields[0].decode(), int(fields[11]) + int(fields[12])
        except (OSError, ValueError, IndexError):
            return None

    def _wants(self, pid: int) -> bool:
        try:
            tasks = f"{self.proc}/{pid}/task"
            return any(_fields(f"{tasks}/{task}/stat")[0].decode() in WANTS for task in os.listdir(tasks))
        except (OSError, ValueError, IndexError):
            return False  # it has just ended


def _fields(stat: str) -> list[bytes]:
    """Of /proc/PID/stat, from the state on: the name before it may hold anything."""
    with open(stat, "rb") as file:
        return file.read().rpartition(b") ")[2].split()
