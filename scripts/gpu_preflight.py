# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""On a machine with an NVIDIA GPU: does the preflight see what CUDA sees?

    python3 scripts/gpu_preflight.py                  compare, hold memory in a process, kill it, see the memory back
    python3 scripts/gpu_preflight.py --record FILE    and keep what nvidia-smi said as a sample for tests

Needs the driver and nvidia-smi. It holds --gib of the first GPU's memory for a moment and changes no setting of it.
Exit status 1: something differs.
"""

from __future__ import annotations

import argparse
import importlib
import json
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
GIB = 1 << 30
HELD = "held[qwen3vl, GPU 0]"
HOLD = r"""
import ctypes, sys, time
cuda = ctypes.CDLL("libcuda.so.1")
def call(name, *arguments):
    status = getattr(cuda, name)(*arguments)
    if status:
        sys.exit(f"{name}: CUDA error {status}")
device, context, place = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_uint64()
free, total = ctypes.c_size_t(), ctypes.c_size_t()
call("cuInit", 0)
call("cuDeviceGet", ctypes.byref(device), 0)
call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
call("cuCtxSetCurrent", context)
call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
call("cuMemAlloc_v2", ctypes.byref(place), ctypes.c_size_t(int(sys.argv[1])))
print(free.value, total.value, flush=True)
time.sleep(600)
"""


def run(argv: list[str]) -> tuple[int, str, str]:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def plan(plans: Any) -> dict[str, Any]:
    """The source guide's instance, on this machine."""
    arguments = {"tensor-parallel-size": 1, "max-model-len": 1024, "gpu-memory-utilization": 0.95}
    instance = {
        "name": "qwen3vl", "port": 8000, "host": "::", "unit": "qwen3vl.service", "model": "Qwen/Qwen3-VL-8B-Instruct",
        "model_source": "hub", "model_path": "/nonexistent", "gpus": [0], "files": None, "limits": [],
        "start_timeout": 600,
        "arguments": plans.arguments(arguments),
    }  # fmt: skip
    return {
        "instances": [instance], "service_manager": "systemd", "service_user": "vllm", "supported": {}, "disk": [],
        "packages": [], "python": None,
        "release": None, "environment_python": None, "home": "/nonexistent", "shm_bytes": 0,
        "cuda": "13.0", "driver_version": "", "manifest_directory": "/var/lib/steadfast",
    }  # fmt: skip


def nameless(text: str) -> str:
    """Without what tells one machine from another."""
    return re.sub(r"GPU(-[0-9a-f]+){5}", "GPU-00000000-0000-0000-0000-000000000000", text)


@dataclass
class Verdict:
    """Says what was compared, and remembers whether all of it was right."""

    good: bool = True

    def told(self, what: str, holds: object, words: object = "") -> None:
        self.good = self.good and bool(holds)
        print(f"{'ok  ' if holds else 'FAIL'} {what} {words}".rstrip(), flush=True)


class Machine:
    """This one, through the collection's own eyes."""

    def __init__(self, folder: Path) -> None:
        # The collection's own name, wherever this checkout lies.
        (folder / "ansible_collections/steadfast").mkdir(parents=True)
        (folder / "ansible_collections/steadfast/vllm").symlink_to(ROOT)
        sys.path.insert(0, str(folder))
        names = ("_gpu_plan", "_gpu_host", "_gpu_table", "_host", "_preflight")
        where = "ansible_collections.steadfast.vllm.plugins.module_utils"
        self.plans, self.gpu, self.table, self.host, self.preflight = (
            importlib.import_module(f"{where}.{name}") for name in names
        )
        self.wanted = plan(self.plans)

    def findings(self) -> dict[str, Any]:
        seen = self.host.look(self.wanted, run)
        return {one["check"]: one for one in self.preflight.judge("gpu", self.wanted, seen)}

    def said(self, what: str) -> str:
        """What nvidia-smi says, as it says it."""
        return run([*self.gpu.SMI, what, "--format=csv,noheader,nounits"])[1]


def compare(machine: Machine, verdict: Verdict, before: dict[str, Any], child: subprocess.Popen[str], held: int) -> int:
    """While CHILD holds HELD bytes; the bytes that CUDA calls the whole of the card."""
    line = child.stdout.readline().split() if child.stdout else []
    if len(line) != 2:
        raise SystemExit(f"{held / GIB:g} GiB could not be held: choose less with --gib")
    free, total = map(int, line)
    card, context = before["cards"][0], (before["cards"][0]["free"] or 0) - free
    verdict.told("memory of the card is what CUDA calls the whole of it", card["memory"] == total, f"{total} bytes")
    fits = context <= machine.plans.CONTEXT
    verdict.told("CUDA's own context fits into what is kept for it", fits, f"{context >> 20} MiB")
    device = next(iter(machine.gpu.gpus()), {"device": ""})["device"]
    known = machine.table.CARDS.get(device)
    if known is None:
        print(f"     device 10de:{device} is not in the table")
    else:
        same = known.name in card["name"] and known.capability == card["capability"]
        verdict.told("the table has the same card", same, known.name)
        verdict.told("and its memory within 3 %", abs(known.memory - total) < 0.03 * total, f"{known.memory} bytes")
    during = machine.gpu.smi(run)
    mine = [one for one in during["processes"] if one["pid"] == child.pid] if during else []
    verdict.told("what is held is given to the process that holds it", mine and (mine[0]["used"] or 0) > held, mine)
    finding = machine.findings()[HELD]
    refused = finding["severity"] == "error" and f"(pid {child.pid})" in finding["evidence"]
    verdict.told("the preflight refuses a start beside it, and names it", refused, finding["evidence"])
    return total


def main() -> int:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    # More than the twentieth of a card that the instance leaves to others, on any card.
    parser.add_argument("--gib", type=float, default=20, help="how much memory to hold (default: %(default)s)")
    parser.add_argument("--record", type=Path, metavar="FILE", help="keep what was seen")
    arguments = parser.parse_args()
    verdict, held = Verdict(), int(arguments.gib * GIB)
    with tempfile.TemporaryDirectory() as folder:
        machine = Machine(Path(folder))
        before = machine.gpu.smi(run)
        if before is None or not before["cards"]:
            raise SystemExit(f"no GPU to look at: {before['problem'] if before else 'nvidia-smi is not there'}")
        child = subprocess.Popen([sys.executable, "-c", HOLD, str(held)], stdout=subprocess.PIPE, text=True)
        try:
            total = compare(machine, verdict, before, child, held)
            apps = machine.said("--query-compute-apps=gpu_uuid,pid,used_memory")
        finally:
            child.kill()
            child.wait()
        end = time.monotonic() + 10
        while not (fine := machine.findings()[HELD]["ok"]) and time.monotonic() < end:
            time.sleep(0.1)
        verdict.told("once it is killed, all is well again", fine)
        for finding in machine.findings().values():
            print(f"     {finding['check']}: {finding['cause'] or 'ok'} ({finding['evidence']})")
        if arguments.record:
            record = {
                "what": "what a real machine said; made by scripts/gpu_preflight.py, serial numbers taken out",
                "at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
                "version": machine.gpu.read(Path("/proc/driver/nvidia/version")) + "\n",
                "gpus": nameless(machine.said(f"--query-gpu={','.join(machine.gpu.FIELDS)}")),
                "apps": nameless(apps),
                "cuda_total": total,
                "held": held,
            }
            arguments.record.write_text(json.dumps(record, indent=1) + "\n")
    print("all as CUDA has it" if verdict.good else "something differs")
    return 0 if verdict.good else 1


if __name__ == "__main__":
    sys.exit(main())
