# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Xid lines of NVIDIA's driver in the kernel's log, and what they ask for.

The table is data, xid_table.json: NVIDIA's catalog with its sources and date. A code that is not in it is told and
asks for nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vllm_keeper.signals import REMEDIES, GpuFault

TABLE = Path(__file__).with_name("xid_table.json")
LONGEST = 4096  # no line of the driver is longer; what is comes from somewhere else

# NVRM: Xid (PCI:0000:3b:00): 79, pid=1234, name=python, GPU has fallen off the bus.
# NVRM: Xid (0000:03:00): 14, Channel 00000001                          older drivers
# NVRM: Xid (PCI:0000:3b:00 GPU-I:05): 94, pid=1234, Contained: ...     a MIG instance
# nvidia-nvswitch3: SXid (PCI:0000:05:00.0): 12028, Non-fatal, Link 32 egress ...
# The comma after code and pid is asked for, because a line that was cut off says 7 where 79 was meant.
LINE = re.compile(r"(?:NVRM:\s*|nvidia-nvswitch\d*:\s*)(?P<kind>S?Xid)\s*\((?P<where>[^()]*)\):\s*(?P<code>\d{1,6}),")
MARK = re.compile(r"(?:NVRM:\s*Xid|nvidia-nvswitch\d*:\s*SXid)\b")
SLOT = re.compile(
    r"(?<![0-9a-f])(?P<domain>[0-9a-f]{4,8}):(?P<bus>[0-9a-f]{2}):(?P<device>[0-9a-f]{2})(?:\.[0-7])?(?![0-9a-f])",
    re.IGNORECASE,
)
PID = re.compile(r"\bpid='?(\d{1,10})'?,")
NAME = re.compile(r"\bname=([^,]*)")
INSTANCE = re.compile(r"\bGPU-I:\s*(\d+)")
# Xid 154: GPU recovery action changed from 0x0 (None) to 0x2 (Node Reboot Required)
RECOVERY = re.compile(r"changed from 0x[0-9a-f]+ \([^)]*\) to 0x(?P<action>[0-9a-f]{1,4})\b", re.IGNORECASE)
RECOVERY_CHANGED = 154
NVLINK5 = range(144, 151)
DRAIN_FIRST = frozenset((63, 64))  # beside Xid 48: the row is being remapped, so that other work may end in peace


@dataclass(frozen=True)
class Xid:
    """One line. code None: the line is an Xid's, but too damaged to say which."""

    code: int | None
    slot: str  # 0000:3b:00, "" where the line does not say
    text: str
    pid: int | None = None
    process: str = ""
    instance: str = ""  # of MIG
    kind: str = "Xid"  # or SXid, of an NVSwitch


@dataclass(frozen=True)
class Entry:
    code: int
    name: str
    meaning: str
    immediate: str  # NVIDIA's word
    investigate: str
    remedy: str  # ours
    advice: str


@dataclass(frozen=True)
class Action:
    """A recovery action, as Xid 154 and NVML tell it."""

    number: int
    name: str
    remedy: str
    urgent: bool
    advice: str


@dataclass(frozen=True)
class Table:
    dated: str = ""
    entries: dict[int, Entry] = field(default_factory=dict)
    actions: dict[int, Action] = field(default_factory=dict)
    problem: str = ""


def load(path: Path = TABLE) -> Table:
    """A table that cannot be read is empty and says why: Xids are then told, and nothing is done for them."""
    try:
        return _table(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        why = f"{type(error).__name__}: {error}"
        return Table(problem=f"{path}: cannot be used ({why}); run site.yml to write it again")


def _table(data: dict[str, Any]) -> Table:
    words = data["remedies"]
    entries = {}
    for number, row in data["codes"].items():
        word = words[row["immediate"]]
        entries[int(number)] = Entry(
            int(number),
            str(row["name"]),
            str(row["meaning"]),
            str(row["immediate"]),
            str(row["investigate"]),
            _remedy(word["remedy"]),
            str(word["meaning"]),
        )
    actions = {
        int(number): Action(
            int(number), str(row["name"]), _remedy(row["remedy"]), bool(row["urgent"]), str(row["meaning"])
        )
        for number, row in data["recovery_actions"].items()
    }
    return Table(str(data["dated"]), entries, actions)


def _remedy(word: str) -> str:
    if word not in REMEDIES:
        raise ValueError(f"{word!r} is none of {', '.join(REMEDIES)}")
    return word


def slot(text: str) -> str:
    """`00000000:3B:00.0`, `PCI:0000:3b:00` -> `0000:3b:00`: NVML and the kernel write the same place differently."""
    found = SLOT.search(text)
    if found is None:
        return ""
    return f"{int(found['domain'], 16):04x}:{found['bus'].lower()}:{found['device'].lower()}"


def parse(line: str) -> Xid | None:
    """Pure. None: no Xid's line."""
    line = " ".join(line[:LONGEST].split())
    mark = MARK.search(line)
    if mark is None:
        return None
    text = line[mark.start() :]
    found = LINE.search(line, mark.start())
    if found is None or found.start() != mark.start():
        return Xid(None, slot(text), text, kind="SXid" if "SXid" in mark[0] else "Xid")
    rest = line[found.end() :]
    pid, name, instance = PID.search(rest), NAME.search(rest), INSTANCE.search(found["where"])
    return Xid(
        int(found["code"]),
        slot(found["where"]),
        text,
        int(pid[1]) if pid else None,
        name[1].strip() if name else "",
        instance[1] if instance else "",
        found["kind"],
    )


def faults(
    xids: Iterable[Xid], table: Table, slots: Collection[str] | None = None, pids: Collection[int] = ()
) -> list[GpuFault]:
    """Pure. What these lines ask for, one fault a line.

    slots: those of the instance's GPUs, None for every GPU. pids: the server's processes, so that a fault of somebody
    else's program is not taken for its own.
    """
    seen = [xid for xid in xids if slots is None or not xid.slot or xid.slot in slots]
    judged = [(xid, _judge(xid, table, pids)) for xid in seen]
    # The driver sums up in Xid 154 what all the other lines of a GPU come to.
    summed = {xid.slot for xid in seen if xid.code == RECOVERY_CHANGED and RECOVERY.search(xid.text)}
    remapping = {xid.slot for xid in seen if xid.code in DRAIN_FIRST}
    found = []
    for xid, fault in judged:
        if xid.slot in summed and xid.code != RECOVERY_CHANGED and fault.remedy in ("reset_gpu", "reboot"):
            found.append(
                replace(fault, evidence=f"{fault.evidence}; Xid 154 says what is needed", remedy="ignore", urgent=False)
            )
        elif xid.code == 48 and xid.slot in remapping:
            found.append(replace(fault, urgent=False))
        else:
            found.append(fault)
    return found


def _judge(xid: Xid, table: Table, pids: Collection[int]) -> GpuFault:
    place = xid.slot
    if xid.code is None:
        return GpuFault(place, "xid", f"a damaged line, which says no code: {xid.text}")
    if xid.kind == "SXid":
        return GpuFault(place, f"sxid_{xid.code}", f"an NVSwitch's: {xid.text}")
    if xid.code == RECOVERY_CHANGED:
        changed = RECOVERY.search(xid.text)
        action = table.actions.get(int(changed["action"], 16)) if changed else None
        if action is not None:
            return GpuFault(place, f"xid_{xid.code}", f"{xid.text} ({action.advice})", action.remedy, action.urgent)
        return GpuFault(place, f"xid_{xid.code}", f"no known recovery action: {xid.text}")
    entry = table.entries.get(xid.code)
    if entry is None:
        return GpuFault(place, f"xid_{xid.code}", f"not in the table of {table.dated or 'Xids'}: {xid.text}")
    remedy, advice = entry.remedy, f"{entry.meaning}: {entry.advice}"
    if xid.code in NVLINK5 and re.search(r"(?<!non)(?<!non-)\bfatal\b", xid.text, re.IGNORECASE):
        remedy, advice = "reset_gpu", f"{entry.meaning}, fatal: reset the GPU"
    urgent = remedy not in ("ignore", "restart_application")
    if remedy == "restart_application" and xid.pid is not None:
        urgent = xid.pid in pids
        if not urgent:
            remedy, advice = "ignore", f"{entry.meaning}, of a process that is not the server's"
    return GpuFault(place, f"xid_{xid.code}", f"{xid.text} ({advice})", remedy, urgent)
