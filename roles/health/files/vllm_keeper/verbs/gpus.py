# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`gpus`: one look at the GPUs of an instance and at what the driver wrote into the kernel's log.

Reads only. What a fault is compared with (the readings when the server was started) only the watcher has, so errors
that have grown since are its to tell.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from vllm_keeper import processes
from vllm_keeper.context import Context
from vllm_keeper.signals import gpu, gpu_reader, kernel_log, xid

LAST = 5  # Xids
MIB = 1 << 20


def gpus(context: Context, reader: gpu_reader.Reader | None = None) -> dict[str, Any]:
    """{"name", "state", "detail", "driver", "library", "gpus", "faults", "log", "xids"}; gpus: the instance's own."""
    settings = context.instance.gpu
    reader = reader or gpu_reader.Reader(settings)
    try:
        seen = gpu.chosen(reader.read(), settings.devices)
    finally:
        reader.close()
    table = xid.load()
    log = kernel_log.KernelLog(Path(settings.kernel_log), after=-1)
    told = kernel_log.xids(log.poll())
    problem = log.problem
    log.close()
    slots = {one.slot for one in seen.gpus if one.slot}
    ours = [one for one in told if not slots or not one.slot or one.slot in slots]
    return {
        "name": context.instance.name,
        "state": seen.state,
        "detail": seen.detail,
        "driver": seen.driver,
        "library": seen.library,
        "gpus": [{**asdict(one), "unattributed": one.unattributed, "holders": _holders(one)} for one in seen.gpus],
        "faults": [asdict(one) for one in gpu.faults(seen, None, settings, table)],
        "log": problem,
        "xids": [asdict(one) for one in xid.faults(ours, table)[-LAST:]],
        "xids_in_all": len(ours),
    }


def _holders(one: gpu.Gpu) -> list[str]:
    """Who holds memory, by the program's name alone: its arguments may hold secrets."""
    found = []
    for process in one.processes or ():
        known = processes.read(process.pid)
        name = known.command[0].rpartition("/")[2] if known is not None and known.command else "gone"
        share = "" if process.used is None else f" {process.used // MIB} MiB"
        found.append(f"{name} (pid {process.pid}){share}")
    return found


def render(facts: dict[str, Any]) -> str:
    driver = f", driver {facts['driver']}" if facts["driver"] else ""
    lines = [f"{facts['name']}: GPUs {facts['state']}{driver}{': ' + facts['detail'] if facts['detail'] else ''}"]
    if facts["library"]:
        lines.append(f"  readings come from {facts['library']}, not from NVML")
    for one in facts["gpus"]:
        lines += _card(one)
    lines += [f"  fault    {one['cause']}: {one['evidence']}; asks for: {one['remedy']}" for one in facts["faults"]]
    if facts["state"] == gpu.OK and not facts["faults"]:
        lines.append("  fault    none")
    if facts["log"]:
        lines.append(f"  Xids     not known: {facts['log']}")
    elif not facts["xids"]:
        lines.append("  Xids     none in the kernel's log")
    else:
        lines.append(f"  Xids     {facts['xids_in_all']} in the kernel's log; the last:")
        lines += [f"           {one['evidence']}; asks for: {one['remedy']}" for one in facts["xids"]]
    return "\n".join(lines)


def _card(one: dict[str, Any]) -> list[str]:
    parts = [] if one["temperature"] is None else [f"{one['temperature']} °C"]
    parts += [] if one["utilisation"] is None else [f"{one['utilisation']} % busy"]
    if one["memory"] is not None:
        parts.append(f"{one['memory']['used'] // MIB} of {one['memory']['total'] // MIB} MiB used")
    if one["unattributed"]:
        parts.append(f"{one['unattributed'] // MIB} MiB of nobody's")
    for key, text in (
        ("ecc_volatile", "uncorrected ECC errors since the driver was loaded"),
        ("ecc_aggregate", "ever"),
    ):
        parts += [] if one[key] is None else [f"{one[key]} {text}"]
    parts += [event for event in one["clock_events"] if event in gpu.SLOWDOWNS]
    lines = [f"  GPU {one['index']}    {one['name']}, {one['slot']}, {one['uuid']}: {one['error'] or ', '.join(parts)}"]
    return lines + [f"           held by {holder}" for holder in one["holders"]]
