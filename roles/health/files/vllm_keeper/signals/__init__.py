# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the keeper sees beside the server itself: its GPUs, the kernel's log, its host.

Each module has a thin edge that reads, never for longer than its deadline, and pure functions that judge what was read.
Nothing here acts.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

# From nothing to do up to a new machine. Rungs of the ladder go by these names.
REMEDIES = ("ignore", "restart_application", "reset_gpu", "reboot", "replace")


@dataclass(frozen=True)
class GpuFault:
    """urgent: the work on this GPU cannot go on. Otherwise the fault is told, and its remedy is due when the server
    fails or is stopped anyway: a server that works is never ended for a fault that it does not feel."""

    gpu: str  # UUID, or PCI slot where only that is known; "" is the host's driver
    cause: str
    evidence: str
    remedy: str = "ignore"
    urgent: bool = False


def worst(faults: Iterable[GpuFault]) -> GpuFault | None:
    """The fault that asks for most; of those that ask for the same, an urgent one."""
    return max(faults, key=lambda fault: (REMEDIES.index(fault.remedy), fault.urgent), default=None)


class Once:
    """Says whether something is news: a GPU that is not there is told once, and again only if that changes."""

    def __init__(self) -> None:
        self._told: dict[str, str] = {}

    def news(self, subject: str, text: str) -> bool:
        """TEXT "" is the normal state: it is news only after something else was told."""
        before = self._told.get(subject, "")
        self._told[subject] = text
        return text != before
