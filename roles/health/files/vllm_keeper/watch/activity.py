# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a server's processes use or want a CPU: what tells a long step from a hang. Read only while in doubt.

A process counts as active when it has used a CPU for a tenth of the time, or one of its threads is runnable (it waits
for a CPU that others have) or waits for a disk. A deadlocked one is none of these. But one that waits for another by
spinning is: vLLM's workers do so all the time, and a CUDA synchronisation does. So activity proves nothing, it only
buys time; and where one of them is stopped (SIGSTOP, a debugger), none of the others can go on, however they spin.
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
        pids = list(pids)
        used = {pid: ticks for pid in pids if (ticks := self._ticks(pid)) is not None}
        before, since = self._used, self._at
        self._used, self._at = used, at
        if any(self._state(pid) in STOPPED for pid in used):
            return False
        if any(self._wants(pid) for pid in used):
            return True
        if since is None or at <= since:
            return None
        # One that is new has used whatever it has used since.
        spent = sum(ticks - before.get(pid, 0) for pid, ticks in used.items()) / TICK
        return spent >= SHARE * (at - since)

    def forget(self) -> None:
        self._used, self._at = {}, None

    def _ticks(self, pid: int) -> int | None:
        try:
            fields = _fields((self.proc / str(pid) / "stat").read_bytes())
            return int(fields[11]) + int(fields[12])
        except (OSError, ValueError, IndexError):
            return None

    def _state(self, pid: int) -> str:
        try:
            return _fields((self.proc / str(pid) / "stat").read_bytes())[0].decode()
        except (OSError, IndexError):
            return "?"  # it has just ended

    def _wants(self, pid: int) -> bool:
        try:
            for task in (self.proc / str(pid) / "task").iterdir():
                if _fields((task / "stat").read_bytes())[0].decode() in WANTS:
                    return True
        except (OSError, ValueError, IndexError):
            return False  # it has just ended
        return False


def _fields(stat: bytes) -> list[bytes]:
    """Of /proc/PID/stat, from the state on: the name before it may hold anything."""
    return stat.rpartition(b") ")[2].split()
