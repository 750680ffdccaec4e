# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host says of its GPUs and of their driver, with a driver or without (private to this collection).

All but `smi` reads files only, so that it cannot hang in a driver. Standard library only.
"""

from __future__ import annotations

import re
import typing as t
from pathlib import Path

# argv -> (exit status, standard output, standard error); raises OSError where there is no such program.
Runner = t.Callable[[list[str]], tuple[int, str, str]]

NVIDIA = "0x10de"
# PCI classes, the first four digits: VGA and 3D controllers are GPUs, "bridge, other" is how an NVSwitch shows.
GPU_CLASSES = ("0x0300", "0x0302")
SWITCH_CLASS = "0x0680"
# The byte behind four bytes of attributes is 1 where Secure Boot is on (UEFI specification, 3.3).
SECURE_BOOT = "SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
# timeout(1) ends one that a broken driver holds up; 124 and 137 are what it says then.
SECONDS = 20
LATE = (124, 137)
SMI = ["timeout", "-k", "5", str(SECONDS), "nvidia-smi"]
FIELDS = ("index", "uuid", "name", "compute_cap", "memory.total", "memory.reserved", "memory.free", "mig.mode.current",
          "pci.bus_id", "driver_version")  # fmt: skip
MIB = 2**20
LOADED = re.compile(r"^NVRM version: (NVIDIA UNIX .*?Kernel Module.*?)\s+(\d+\.\d+(?:\.\d+)?)\s", re.MULTILINE)


class PciDevice(t.TypedDict):
    """slot: as 0000:3b:00.0. device: four hex digits. driver: the module that holds it, such as nvidia or nouveau."""

    slot: str
    device: str
    driver: str


class Loaded(t.TypedDict):
    """The kernel module that is loaded. open: whether it is NVIDIA's open one."""

    version: str
    open: bool


def read(path: Path) -> str:
    """The content without the white space around it, "" where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def gpus(bus: Path = Path("/sys/bus/pci/devices")) -> list[PciDevice]:
    """NVIDIA's GPUs in the machine, in the order of their slots."""
    return [device for kind, device in nvidia(bus) if kind.startswith(GPU_CLASSES)]


def switches(bus: Path = Path("/sys/bus/pci/devices")) -> list[PciDevice]:
    """Its NVSwitches, which take a fabric manager."""
    return [device for kind, device in nvidia(bus) if kind.startswith(SWITCH_CLASS)]


def nvidia(bus: Path = Path("/sys/bus/pci/devices")) -> list[tuple[str, PciDevice]]:
    """(PCI class, device) of all that is NVIDIA's, with a driver or without."""
    found: list[tuple[str, PciDevice]] = []
    for folder in sorted(bus.glob("*")):
        if read(folder / "vendor") == NVIDIA:
            link = folder / "driver"
            driver = link.resolve().name if link.exists() else ""
            device = read(folder / "device").removeprefix("0x")
            found.append((read(folder / "class"), PciDevice(slot=folder.name, device=device, driver=driver)))
    return found


def loaded(proc: Path = Path("/proc/driver/nvidia/version")) -> Loaded | None:
    """NVIDIA's module as it runs, None where none is loaded."""
    found = LOADED.search(f"{read(proc)} \n")
    return Loaded(version=found[2], open="Open Kernel Module" in found[1]) if found else None


def secure_boot(efi: Path = Path("/sys/firmware/efi")) -> bool | None:
    """Whether the firmware lets only signed modules in; None on a machine that was not booted by UEFI."""
    if not efi.is_dir():
        return None
    try:
        value = (efi / "efivars" / SECURE_BOOT).read_bytes()
    except OSError:
        return False
    return len(value) >= 5 and value[4] == 1


class Told(t.TypedDict):
    """What nvidia-smi says. problem: why it says nothing, "" if it does. cards, processes: as `_rows` names them."""

    problem: str
    driver: str
    cards: list[dict[str, t.Any]]
    processes: list[dict[str, t.Any]]


def smi(run: Runner) -> Told | None:
    """None where there is no nvidia-smi."""
    cards = _query(run, f"--query-gpu={','.join(FIELDS)}")
    if cards is None:
        return None
    if isinstance(cards, str):
        return Told(problem=cards, driver="", cards=[], processes=[])
    found = [_card(dict(zip(FIELDS, row))) for row in cards if len(row) == len(FIELDS)]
    processes = _query(run, "--query-compute-apps=gpu_uuid,pid,used_memory")
    rows = [row for row in processes if len(row) == 3 and row[1].isdecimal()] if isinstance(processes, list) else []
    held = [{"uuid": row[0], "pid": int(row[1]), "used": _bytes(row[2])} for row in rows]
    driver = cards[0][-1] if cards and cards[0] else ""
    return Told(problem="", driver=driver, cards=found, processes=held)


def _query(run: Runner, what: str) -> list[list[str]] | str | None:
    """Rows; or why there are none, in its own words; None where there is no such program."""
    try:
        status, output, errors = run([*SMI, what, "--format=csv,noheader,nounits"])
    except OSError:
        return None  # no timeout(1): no host that we manage is without
    if status == 127:
        return None
    if status in LATE:
        return f"no answer within {SECONDS} s"
    if status:
        return " ".join((output + errors).split())[:300] or f"exit status {status}"
    return [[cell.strip() for cell in line.split(",")] for line in output.splitlines() if line.strip()]


def _card(row: dict[str, str]) -> dict[str, t.Any]:
    """index: int or None; memory and free: bytes, less what the driver keeps for itself; capability: (major, minor)."""
    total, reserved, capability = _bytes(row["memory.total"]), _bytes(row["memory.reserved"]), row["compute_cap"]
    return {
        "index": int(row["index"]) if row["index"].isdecimal() else None,
        "uuid": row["uuid"],
        "name": row["name"],
        "slot": row["pci.bus_id"].lower()[-12:],
        "capability": tuple(map(int, capability.split("."))) if re.fullmatch(r"\d+\.\d+", capability) else None,
        "memory": None if total is None else total - (reserved or 0),
        "free": _bytes(row["memory.free"]),
        "mig": row["mig.mode.current"] == "Enabled",
    }


def _bytes(mebibytes: str) -> int | None:
    return int(mebibytes) * MIB if mebibytes.isdecimal() else None


def instance_type(dmi: Path = Path("/sys/class/dmi/id")) -> str:
    """What EC2 calls this machine, "" elsewhere."""
    return read(dmi / "product_name") if read(dmi / "sys_vendor") == "Amazon EC2" else ""


def iommu(classes: Path = Path("/sys/class/iommu"), cmdline: Path = Path("/proc/cmdline")) -> bool:
    """Whether addresses of devices are translated, which is in the way of GPUs that talk to each other."""
    return any(classes.glob("*")) and "iommu=pt" not in read(cmdline).split()


def memory_total(meminfo: Path = Path("/proc/meminfo")) -> int | None:
    """The host's memory, in bytes."""
    found = re.search(r"^MemTotal:\s+(\d+) kB", read(meminfo), re.MULTILINE)
    return int(found[1]) * 1024 if found else None
