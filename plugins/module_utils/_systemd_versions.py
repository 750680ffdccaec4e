# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which directives the systemd of a host knows (private to this collection). Pure, standard library only.

Source: systemd's NEWS up to 257, held against `systemd --dump-configuration-items` of 252 and 257 by a test in the lab.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

# The oldest that the collection supports: Ubuntu 22.04. What is not in the tables, this one has.
OLDEST = 249

_BY_VERSION = {
    250: "AssertCPUPressure AssertIOPressure AssertMemoryPressure ConditionCPUPressure ConditionIOPressure"
    " ConditionMemoryPressure ExecSearchPath ExitType LoadCredentialEncrypted RestrictFileSystems"
    " RestrictNetworkInterfaces SetCredentialEncrypted StartupAllowedCPUs StartupAllowedMemoryNodes TTYColumns TTYRows",
    251: "ExtensionDirectories",
    252: "AssertCredential ConditionCredential",
    253: "LogFilterPatterns MemoryZSwapMax OpenFile ReloadSignal",
    254: "DefaultStartupMemoryLow DelegateSubgroup ExtensionImagePolicy FileDescriptorStorePreserve ImportCredential"
    " MemoryKSM MemoryPressureThresholdSec MemoryPressureWatch MountImagePolicy RestartMaxDelaySec RestartMode"
    " RestartSteps RootEphemeral RootImagePolicy StartupMemoryHigh StartupMemoryLow StartupMemoryMax"
    " StartupMemorySwapMax StartupMemoryZSwapMax UpheldBy",
    255: "CoredumpReceive NFTSet SetLoginEnvironment SurviveFinalKillSignal",
    256: "MemoryZSwapWriteback WantsMountsFor",
    257: "BindLogSockets ManagedOOMMemoryPressureDurationSec PrivatePIDs",
}
# directive -> first version of systemd that has it
FIRST_VERSION = {name: version for version, names in _BY_VERSION.items() for name in names.split()}
# (directive, value) -> first version that takes this value
FIRST_VERSION_OF_VALUE = {
    ("PrivateTmp", "disconnected"): 257,
    ("PrivateUsers", "identity"): 257,
    ("ProtectControlGroups", "private"): 257,
    ("ProtectControlGroups", "strict"): 257,
    ("RestartMode", "debug"): 257,
    ("Type", "notify-reload"): 253,
}


class LeftOut(NamedTuple):
    """A directive that this host's systemd does not have."""

    directive: str
    needs: int


def needs(directive: str, value: str) -> int:
    """The first version of systemd that takes a directive with this value; OLDEST for all that it had already."""
    return max(FIRST_VERSION.get(directive, OLDEST), FIRST_VERSION_OF_VALUE.get((directive, value.strip()), OLDEST))


def supported(pairs: Iterable[tuple[str, str]], version: int | None) -> tuple[list[tuple[str, str]], list[LeftOut]]:
    """What a host's systemd takes, and what it does not; without a version, it is taken for OLDEST."""
    known = OLDEST if version is None else version
    kept: list[tuple[str, str]] = []
    left_out: list[LeftOut] = []
    for directive, value in pairs:
        needed = needs(directive, value)
        if needed > known:
            left_out.append(LeftOut(directive, needed))
        else:
            kept.append((directive, value))
    return kept, left_out


def lines(pairs: Iterable[tuple[str, str]], version: int | None) -> list[str]:
    """Lines of a unit: directives, and a comment for each one left out (without its value, which may be secret)."""
    kept, left_out = supported(pairs, version)
    missing = {f"# {directive}= is left out: it needs systemd {needed} or later." for directive, needed in left_out}
    return [*(f"{directive}={value}" for directive, value in kept), *sorted(missing)]
