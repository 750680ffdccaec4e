# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host says of its GPUs and of their driver, with a driver or without (private to this collection).

Reads files only, so that nothing here can hang in a driver. Standard library only.
"""

from __future__ import annotations

import re
import typing as t
from pathlib import Path

NVIDIA = "0x10de"
# PCI classes, the first four digits: VGA and 3D controllers are GPUs, "bridge, other" is how an NVSwitch shows.
GPU_CLASSES = ("0x0300", "0x0302")
SWITCH_CLASS = "0x0680"
# The byte behind four bytes of attributes is 1 where Secure Boot is on (UEFI specification, 3.3).
SECURE_BOOT = "SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
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
    return [device for kind, device in _nvidia(bus) if kind.startswith(GPU_CLASSES)]


def switches(bus: Path = Path("/sys/bus/pci/devices")) -> list[PciDevice]:
    """Its NVSwitches, which take a fabric manager."""
    return [device for kind, device in _nvidia(bus) if kind.startswith(SWITCH_CLASS)]


def _nvidia(bus: Path) -> list[tuple[str, PciDevice]]:
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
