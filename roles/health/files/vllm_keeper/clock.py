# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Time that a jump of the wall clock cannot harm.

Ages are measured from the start of process 1, on the boot clock, so that a restarted container counts as a restarted
host. The wall clock is kept for people to read, and for ages across a boot, where it is only trusted as far as the
uptime bears it out.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path


@dataclass(frozen=True)
class Moment:
    wall: float
    boot: float
    boot_id: str


def age(then: Moment, now: Moment) -> float:
    """Seconds from `then` to `now`, never negative."""
    if then.boot_id == now.boot_id:
        return max(0.0, now.boot - then.boot)
    # Another boot: at least the whole uptime ago, and more if the wall clock says so.
    return max(0.0, now.boot, now.wall - then.wall)


def iso(moment: Moment) -> str:
    try:
        return datetime.fromtimestamp(moment.wall, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (OverflowError, OSError, ValueError):
        return "unknown"


class Clock:
    """The real clock; tests bring their own."""

    def __init__(self, proc: Path = Path("/proc")) -> None:
        kernel, self._born = "unknown", 0
        try:
            kernel = (proc / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
            # Field 22 of stat; the name in parentheses before it may hold anything.
            self._born = int((proc / "1/stat").read_bytes().rpartition(b") ")[2].split()[19])
        except (OSError, ValueError, IndexError):
            pass  # ages are then counted from the kernel's boot: right on every host that is no container
        self._boot_id = f"{kernel}:{self._born}"

    def now(self) -> Moment:
        uptime = time.clock_gettime(time.CLOCK_BOOTTIME) - self._born / os.sysconf("SC_CLK_TCK")
        return Moment(time.time(), uptime, self._boot_id)

    def monotonic(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(max(0.0, seconds))


def duration(seconds: float) -> str:
    """`95` -> `1 min 35 s`: what a person reads in a status line."""
    left = int(max(0.0, seconds) + 0.5)
    parts = []
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if left >= size:
            parts.append(f"{left // size} {unit}")
            left %= size
    if left or not parts:
        parts.append(f"{left} s")
    return " ".join(parts[:2])
