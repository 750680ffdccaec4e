# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is to be done to the instances of a host (private to this collection). Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Seen:
    """One instance as found on the host.

    verdict: the keeper's (starting, healthy, dead, parked, stopped, ...), or None where no keeper answers yet.
    enabled: whether it starts on boot.
    """

    verdict: str | None
    enabled: bool

    @property
    def runs(self) -> bool:
        return self.verdict not in (None, "dead", "parked", "stopped")


@dataclass
class Plan:
    """Names of instances, each list in the order given."""

    enable: list[str] = field(default_factory=list)
    disable: list[str] = field(default_factory=list)
    start: list[str] = field(default_factory=list)
    restart: list[str] = field(default_factory=list)
    defer: list[str] = field(default_factory=list)

    @property
    def changes(self) -> bool:
        return bool(self.enable or self.disable or self.start or self.restart)


def plan(
    names: Collection[str], seen: Mapping[str, Seen], owed: Collection[str], restart: str, enabled: bool = True
) -> Plan:
    """Decide for each name.

    names: the instances that should run. seen: state by name. owed: names that a change owes a restart.
    restart: "now" or "defer", for those that run. enabled: whether they shall start on boot.
    """
    result = Plan()
    for name in names:
        state = seen[name]
        if state.enabled != enabled:
            (result.enable if enabled else result.disable).append(name)
        if not state.runs:
            result.start.append(name)
        elif name in owed:
            (result.restart if restart == "now" else result.defer).append(name)
    return result
