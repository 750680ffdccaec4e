# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""On a machine with an NVIDIA GPU: is what the keeper reads what nvidia-smi says?

    python3 scripts/gpu_readings.py                  compare, hold memory, kill the holder, see the memory come back
    python3 scripts/gpu_readings.py --record FILE    keep the readings, without serial numbers, as a sample for tests
    python3 scripts/gpu_readings.py --crash          also let a program of its own write where it may not: a real Xid

Needs the driver, nvidia-smi and a Python that has nvidia-ml-py (--python, the one that runs this if not given). It
holds --gib of GPU memory for a few seconds and changes no setting of the card. Exit status 1: something differs.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "roles/health/files"))

from vllm_keeper.signals import faults, gpu, gpu_reader, kernel_log, worst, xid

GIB = 1 << 30
# nvidia-smi's field, what the keeper has for it, and by how much the two may differ because time passes between them.
FIELDS: tuple[tuple[str, Callable[[gpu.Gpu], object], float], ...] = (
    ("index", lambda one: one.index, 0),
    ("uuid", lambda one: one.uuid, 0),
    ("name", lambda one: one.name, 0),
    ("pci.bus_id", lambda one: one.slot, 0),
    ("memory.total", lambda one: _mib(one.memory.total if one.memory else None), 1),
    ("memory.reserved", lambda one: _mib(one.memory.reserved if one.memory else None), 2),
    ("memory.used", lambda one: _mib(one.memory.used if one.memory else None), 4),
    ("temperature.gpu", lambda one: one.temperature, 5),
    ("ecc.errors.uncorrected.volatile.total", lambda one: one.ecc_volatile, 0),
    ("ecc.errors.uncorrected.aggregate.total", lambda one: one.ecc_aggregate, 0),
    ("remapped_rows.pending", lambda one: one.remap_pending, 0),
    ("remapped_rows.failure", lambda one: one.remap_failed, 0),
    ("retired_pages.pending", lambda one: one.retired_pending, 0),
    ("clocks_event_reasons.active", lambda one: list(one.clock_events), 0),
    ("mig.mode.current", lambda one: one.mig, 0),
)
STRAY = (
    b".version 6.0\n.target sm_50\n.address_size 64\n.visible .entry stray()\n"
    b"{ .reg .b64 %place; .reg .b32 %value; mov.u64 %place, 4096; mov.u32 %value, 1;"
    b" st.global.u32 [%place], %value; ret; }\n"
)
EVENTS = {0x4: "sw_power_cap", 0x8: "hw_slowdown", 0x10: "sync_boost", 0x20: "sw_thermal_slowdown"}
EVENTS.update({0x40: "hw_thermal_slowdown", 0x80: "hw_power_brake_slowdown"})


@dataclass(frozen=True)
class Compared:
    gpu: int
    what: str
    keeper: object
    nvidia_smi: object
    same: bool


def _mib(value: int | None) -> float | None:
    return None if value is None else round(value / (1 << 20), 1)


def smi(*arguments: str) -> str:
    done = subprocess.run(
        ["nvidia-smi", *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False
    )
    if done.returncode:
        raise SystemExit(f"nvidia-smi {' '.join(arguments)}: exit status {done.returncode}: {done.stdout}{done.stderr}")
    return done.stdout


def table(text: str, fields: list[str]) -> list[dict[str, str]]:
    """nvidia-smi's CSV without header; no field that is asked for holds a comma."""
    rows = [[word.strip() for word in line.split(",")] for line in text.splitlines() if line.strip()]
    return [dict(zip(fields, row)) for row in rows]


def meaning(field: str, text: str) -> object:
    """What nvidia-smi wrote, in the keeper's words."""
    if text in ("[N/A]", "N/A", "[Not Supported]", "[Unknown Error]"):
        return False if field == "mig.mode.current" else None
    if field == "pci.bus_id":
        return xid.slot(text)
    if field == "clocks_event_reasons.active":
        return [name for bit, name in EVENTS.items() if int(text, 16) & bit]
    if text in ("Yes", "No", "Enabled", "Disabled"):
        return text in ("Yes", "Enabled")
    if field.startswith("remapped_rows."):
        return bool(int(text))
    return float(text) if re.fullmatch(r"\d+(\.\d+)?", text) else text


def compare(readings: gpu.Readings, rows: list[dict[str, str]], actions: list[str]) -> list[Compared]:
    found = [
        Compared(-1, "number of GPUs", len(readings.gpus), len(rows), len(readings.gpus) == len(rows)),
    ]
    known = xid.load().actions
    for one, row, action in zip(readings.gpus, rows, actions):
        for field, ours, tolerance in FIELDS:
            mine, theirs = ours(one), meaning(field, row[field])
            if isinstance(mine, (int, float)) and isinstance(theirs, float):
                same = abs(mine - theirs) <= tolerance
            else:
                same = mine == theirs
            found.append(Compared(one.index, field, mine, theirs, same))
        told = known[one.recovery_action].name if one.recovery_action in known else str(one.recovery_action)
        said = re.sub(r"[ _-]+", "_", action).lower()
        same = told == said or {told, said} == {"none"} or said in told
        found.append(Compared(one.index, "GPU Recovery Action", told, action, same))
    return found


def recovery_actions() -> list[str]:
    return re.findall(r"^\s*GPU Recovery Action\s*:\s*(.+?)\s*$", smi("-q"), re.MULTILINE)


def apps() -> dict[int, float]:
    """Memory in MiB by process, as nvidia-smi sees it."""
    rows = table(smi("--query-compute-apps=pid,used_memory", "--format=csv,noheader,nounits"), ["pid", "used"])
    return {int(row["pid"]): float(row["used"]) for row in rows if row["used"].replace(".", "").isdigit()}


class Cuda:
    """The driver's own library, with a context on the first GPU. For a process of its own."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL("libcuda.so.1")
        device, context = ctypes.c_int(), ctypes.c_void_p()
        self("cuInit", 0)
        self("cuDeviceGet", ctypes.byref(device), 0)
        self("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        self("cuCtxSetCurrent", context)

    def __call__(self, name: str, *arguments: Any) -> None:
        status = int(getattr(self._library, name)(*arguments))
        if status:
            raise SystemExit(f"{name}: CUDA error {status}")


def crash() -> None:
    """Writes to an address that is nobody's: an error of this program, which ends it and leaves the GPU as it was."""
    call = Cuda()
    module, function = ctypes.c_void_p(), ctypes.c_void_p()
    call("cuModuleLoadData", ctypes.byref(module), ctypes.c_char_p(STRAY))
    call("cuModuleGetFunction", ctypes.byref(function), module, ctypes.c_char_p(b"stray"))
    call("cuLaunchKernel", function, *[ctypes.c_uint(1)] * 6, ctypes.c_uint(0), None, None, None)
    call("cuCtxSynchronize")


def hold(gib: float) -> None:
    """Takes memory on the first GPU, and keeps it."""
    call, place = Cuda(), ctypes.c_uint64()
    call("cuMemAlloc_v2", ctypes.byref(place), ctypes.c_size_t(int(gib * GIB)))
    call("cuMemsetD8_v2", place, ctypes.c_ubyte(1), ctypes.c_size_t(int(gib * GIB)))
    call("cuCtxSynchronize")
    print("holding", flush=True)
    time.sleep(600)


def kernel_lines() -> list[str]:
    """What the driver has written into the kernel's log since the machine started."""
    log = kernel_log.KernelLog(after=-1)
    try:
        return [line.text for line in log.poll() if line.kernel and re.search("nvrm|nvidia", line.text, re.IGNORECASE)]
    finally:
        log.close()


def nameless(text: str) -> str:
    """Without what tells one machine from another."""
    text = re.sub(r"Serial Number: \w+", "Serial Number: 0", text)
    return re.sub(r"GPU(-[0-9a-f]+){5}", "GPU-00000000-0000-0000-0000-000000000000", text)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default=sys.executable, help="a Python that has nvidia-ml-py")
    parser.add_argument("--gib", type=float, default=2, help="how much memory to hold (default: %(default)s)")
    parser.add_argument("--record", type=Path, metavar="FILE", help="keep what was seen")
    parser.add_argument("--crash", action="store_true", help="also provoke an Xid with a program that errs")
    parser.add_argument("--stray", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--hold", type=float, metavar="GIB", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.hold is not None:
        hold(arguments.hold)
        return 0
    if arguments.stray:
        crash()
        return 0
    reader = gpu_reader.Reader(gpu.Settings(python=arguments.python, deadline=60))
    begun = time.monotonic()
    before = reader.read()
    first = time.monotonic() - begun
    if before.state != gpu.OK:
        print(f"the keeper's reader says: {before.state}: {before.detail}", file=sys.stderr)
        return 1
    fields = [field for field, _, _ in FIELDS]
    rows = table(smi(f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"), fields)
    compared = compare(before, rows, recovery_actions())
    begun = time.monotonic()
    for _ in range(20):
        reader.read()
    each = (time.monotonic() - begun) / 20
    print(f"{before.gpus[0].name}, driver {before.driver}: first look {first:.3f} s, then {each * 1000:.1f} ms each")
    for one in compared:
        print(f"{'same' if one.same else 'DIFFERS':8} {one.what:40} {one.keeper!s:28} {one.nvidia_smi!s}")
    held = attribution(reader, arguments.gib)
    for text, good in held["checks"]:
        print(f"{'good' if good else 'BAD':8} {text}")
    reported: dict[str, Any] = {"checks": []}
    if arguments.crash:
        reported = provoke(arguments.python)
        for text, good in reported["checks"]:
            print(f"{'good' if good else 'BAD':8} {text}")
    left = [asdict(fault) for fault in gpu.faults(reader.read(), before)]
    print(f"{'good' if not left else 'note':8} faults at the end: {left or 'none'}")
    reader.close()
    good = all(one.same for one in compared) and all(check[1] for check in (*held["checks"], *reported["checks"]))
    if arguments.record:
        record = {
            "said": "Recorded on a real GPU by scripts/gpu_readings.py; UUIDs are zeroed.",
            "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
            "gpu": before.gpus[0].name,
            "driver": before.driver,
            "system": f"{platform.freedesktop_os_release().get('PRETTY_NAME', '')}, {platform.machine()}",
            "first_look_seconds": round(first, 3),
            "next_looks_seconds": round(each, 4),
            "before": asdict(before),
            "nvidia_smi": rows,
            "compared": [asdict(one) for one in compared],
            "held": held,
            "crashed": reported,
            "kernel_lines": kernel_lines(),
        }
        arguments.record.write_text(nameless(json.dumps(record, indent=1)) + "\n", encoding="utf-8")
    return 0 if good else 1


def attribution(reader: gpu_reader.Reader, gib: float) -> dict[str, Any]:
    """Who holds the memory, by the keeper and by nvidia-smi, and how long it takes to come back after a SIGKILL."""
    idle = reader.read().gpus[0]
    holder = subprocess.Popen(
        [sys.executable, __file__, "--hold", str(gib)], stdout=subprocess.PIPE, text=True, env={**os.environ}
    )
    try:
        if holder.stdout is None or holder.stdout.readline().strip() != "holding":
            raise SystemExit("the holder of GPU memory ended: see its error above")
        holding = reader.read().gpus[0]
        theirs = apps().get(holder.pid)
    finally:
        holder.kill()
        killed = time.monotonic()
    after, seconds = reader.read().gpus[0], 0.0
    target = idle.memory.used if idle.memory else 0
    while seconds < 30:
        after = reader.read().gpus[0]
        seconds = time.monotonic() - killed
        holder.poll()
        if after.memory is not None and after.memory.used <= target + (16 << 20):
            break
        time.sleep(0.02)
    holder.wait(10)
    ours = {process.pid: process.used for process in holding.processes or ()}
    mine = _mib(ours.get(holder.pid))
    grown = _mib(holding.memory.used - idle.memory.used) if holding.memory and idle.memory else None
    gone = holder.pid not in {process.pid for process in after.processes or ()}
    returned = after.memory is not None and after.memory.used <= target + (16 << 20)
    checks = [
        (f"held {gib:g} GiB: the keeper gives the process {mine} MiB", mine is not None and mine >= gib * 1024),
        (f"nvidia-smi gives it {theirs} MiB", mine is not None and theirs is not None and abs(mine - theirs) <= 1),
        (f"the card's used memory grew by {grown} MiB", grown is not None and abs(grown - (mine or 0)) <= 512),
        (f"held by nobody meanwhile: {_mib(holding.unattributed)} MiB", (holding.unattributed or 0) < 1 << 30),
        (f"killed with memory held: all of it back after {seconds:.2f} s", returned),
        ("the killed process is not listed any more", gone),
    ]
    return {
        "checks": checks,
        "pid": holder.pid,
        "idle": asdict(idle),
        "holding": asdict(holding),
        "after": asdict(after),
        "nvidia_smi_mib": theirs,
        "back_after_seconds": round(seconds, 3),
    }


def provoke(python: str) -> dict[str, Any]:
    """A real Xid, and what the keeper makes of it when the program is the server's, and when it is not."""
    signals = faults.HostSignals(gpu.Settings(python=python, deadline=60, interval=1))
    log = kernel_log.KernelLog()
    log.poll()
    signals.start()
    signals.sampler.now()
    program = subprocess.Popen([sys.executable, __file__, "--stray"], stderr=subprocess.PIPE, text=True)
    ours, others = ("ours", program.pid, 0, None, (program.pid,)), ("another", 1, 60, None, (1,))
    for server in (ours, others):
        signals.faults(*server)  # from here on
    _, said = program.communicate(timeout=120)
    time.sleep(1)
    signals.sampler.now()
    lines = [line for line in log.poll() if line.kernel]
    seen = kernel_log.xids(lines)
    slots = {one.slot for one in signals.sampler.now().gpus}
    for_ours, for_others = (worst(one for one in signals.faults(*server) if one.urgent) for server in (ours, others))
    signals.stop()
    log.close()
    before = faults.before_start(gpu.Settings(python=python, deadline=60), 60)
    checks = [
        (f"a program that erred ended: {said.strip().splitlines()[-1:]}", program.returncode != 0),
        (
            f"the kernel's log told of it: Xid {[one.code for one in seen]}",
            bool(seen) and all(one.code for one in seen),
        ),
        (f"on a GPU that NVML lists: {sorted({one.slot for one in seen})}", {one.slot for one in seen} <= slots),
        (
            f"of the server's: {for_ours.cause if for_ours else ''} {for_ours.remedy if for_ours else ''}",
            for_ours is not None and for_ours.remedy == "restart_application",
        ),
        (f"of somebody else's: {for_others}", for_others is None),
        (
            f"the gate before a start: {before.calls_for or 'nothing to repair'}, {before.held or 'nothing held'}",
            not before.calls_for and not before.held and bool(before.devices),
        ),
    ]
    return {"checks": checks, "lines": [line.text for line in lines]}


if __name__ == "__main__":
    sys.exit(main())
