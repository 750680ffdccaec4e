# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The files that keep NVIDIA's driver as it is: repository, pin, unattended upgrades, nouveau (private to this
collection). Pure: a plan and what was seen go in, entries for managed_files come out.
"""

from __future__ import annotations

import typing as t

from ansible_collections.steadfast.vllm.plugins.module_utils import _apt_sources
from ansible_collections.steadfast.vllm.plugins.module_utils import _nvidia_driver_obstacles as obstacles
from ansible_collections.steadfast.vllm.plugins.module_utils import _nvidia_driver_tables as tables
from ansible_collections.steadfast.vllm.plugins.module_utils._nvidia_driver import Plan
from ansible_collections.steadfast.vllm.plugins.module_utils._nvidia_driver_obstacles import Seen, Wishes

SOURCES = "/etc/apt/sources.list.d/steadfast-nvidia-driver.sources"
KEY = "/etc/apt/keyrings/steadfast-nvidia-driver.asc"
PIN = "/etc/apt/preferences.d/steadfast-nvidia-driver"
UNATTENDED = "/etc/apt/apt.conf.d/52steadfast-nvidia-driver"
YUM = "/etc/yum.repos.d/steadfast-nvidia-driver.repo"
CDI = f"/etc/systemd/system/{tables.CDI_UNIT}"
# Docker waits for the description: a container that it starts at boot needs its GPUs by then.
CDI_WANTED = "/etc/systemd/system/docker.service.d/steadfast-nvidia-cdi.conf"
MODPROBE = "/etc/modprobe.d/steadfast-nvidia-driver.conf"
HEAD = "Written by steadfast.vllm.nvidia_driver; changes here are undone by its next run."

# Under /run, where the toolkit's own refresh (from 1.18 on) writes too, so that there is never a second description. It
# names files by the driver's version, which is why it is made anew at every boot and after every change of the driver.
CDI_TEXT = f"""# {HEAD}
[Unit]
Description=Describe NVIDIA's GPUs to container engines (CDI)
After=systemd-modules-load.service nvidia-persistenced.service nvidia-fabricmanager.service

[Service]
Type=oneshot
RemainAfterExit=yes
TimeoutStartSec=120
ExecStart=/usr/bin/nvidia-ctk cdi generate --output=/run/cdi/nvidia.yaml
"""
CDI_WANTED_TEXT = f"# {HEAD}\n[Unit]\nWants={tables.CDI_UNIT}\nAfter={tables.CDI_UNIT}\n"
# A priority of more than 1000 holds a package at its version even where that is a step back (apt_preferences(5)).
PRIORITY = 1001
NOUVEAU = f"# {HEAD}\nblacklist nouveau\noptions nouveau modeset=0\n"
# What unattended-upgrades matches from the beginning of a package's name.
LEFT_ALONE = {
    "driver": (
        "nvidia-", "libnvidia-", "libcuda1$", "libcudadebugger1$", "firmware-nvidia-", "linux-modules-nvidia-",
        "datacenter-gpu-manager-",
    ),
    "kernel": ("linux-image-", "linux-headers-", "linux-modules-", "linux-generic", "linux-aws", "linux-gcp"),
}  # fmt: skip


class Entry(t.TypedDict, total=False):
    """A file of managed_files, or a folder."""

    path: str
    state: str
    content: str
    owes: list[str]


def sources(wished: Wishes, seen: Seen) -> str:
    """The repository of the wished source, as deb822; "" where the host has it already."""
    made = obstacles.recipe(seen, wished)
    if made is None or made.manager != "apt":
        return ""
    if wished["source"] == "nvidia":
        vendor = _apt_sources.Source((address(wished, seen),), ("/",), (), (("Signed-By", KEY),))
        return _apt_sources.text([vendor], HEAD)
    return _apt_sources.text(seen["lacking"], HEAD)


def address(wished: Wishes, seen: Seen) -> str:
    """Where NVIDIA's packages for this host lie."""
    known = obstacles.distribution(seen)
    folder = known.vendor if known else ""
    return f"{wished['repository'].rstrip('/')}/{folder}/{tables.VENDOR_MACHINES.get(seen['machine'], '')}"


def pin(version: str) -> str:
    """Keeps the driver at a version, whichever source has another one."""
    packages = " ".join(tables.DRIVER_PACKAGES)
    return f"# {HEAD}\nPackage: {packages}\nPin: version {version}-*\nPin-Priority: {PRIORITY}\n"


def pinned(text: str) -> str:
    """The version that a pin is for; "" where there is none."""
    lines = [line.partition("version ")[2] for line in text.splitlines() if line.startswith("Pin: version ")]
    return lines[0].removesuffix("-*") if lines else ""


def unattended(holds: t.Sequence[str]) -> str:
    """Tells unattended-upgrades to leave the driver alone; apt itself does not mind where that is not installed."""
    names = [name for kind in ("driver", "kernel") if kind in holds for name in LEFT_ALONE[kind]]
    lines = "".join(f'    "{name}";\n' for name in names)
    return f"// {HEAD}\nUnattended-Upgrade::Package-Blacklist {{\n{lines}}};\n"


def yum(wished: Wishes, seen: Seen) -> str:
    """NVIDIA's repository for dnf, as it ships it itself, with its key, and with what dnf.conf(5) has for a hold."""
    base, name = address(wished, seen), repository_id(wished, seen)
    held = f"excludepkgs={' '.join(tables.RPM_PACKAGES)}\n" if "driver" in wished["hold"] else ""
    key = f"gpgcheck=1\ngpgkey={base}/{tables.RPM_KEY}\n"
    return f"# {HEAD}\n[{name}]\nname={name}\nbaseurl={base}\nenabled=1\n{key}{held}"


def repository_id(wished: Wishes, seen: Seen) -> str:
    """How dnf calls NVIDIA's repository, as NVIDIA does."""
    return f"cuda-{'-'.join(address(wished, seen).rsplit('/', 2)[1:])}"


def entries(wished: Wishes, seen: Seen, made: Plan) -> list[Entry]:
    """All files of the role; none where the driver is not to be there, and few where it was there before."""
    recipe = obstacles.recipe(seen, wished)
    if wished["state"] == "absent" or made.skipped:
        return []
    described = [(CDI, CDI_TEXT), (CDI_WANTED, CDI_WANTED_TEXT)] if wished["container_toolkit"] else []
    found = [Entry(path=CDI_WANTED.rpartition("/")[0], state="directory")] if described else []
    found += [Entry(path=path, content=content, owes=["systemd"]) for path, content in described]
    if wished["source"] == "preinstalled" or recipe is None:
        return found
    found += [Entry(path=MODPROBE, content=NOUVEAU, owes=["initramfs"] if seen["initramfs"] else [])]
    if recipe.manager == "dnf":
        return [*found, Entry(path=YUM, content=yum(wished, seen), owes=[])]
    repository = sources(wished, seen)
    if repository:
        found.append(Entry(path=SOURCES, content=repository, owes=["apt"]))
    if wished["source"] == "nvidia":
        found.append(Entry(path=KEY, content=f"{wished['repository_key'].strip()}\n", owes=["apt"]))
    if made.version:
        found.append(Entry(path=PIN, content=pin(made.version), owes=[]))
    if wished["hold"]:
        found.append(Entry(path=UNATTENDED, content=unattended(wished["hold"]), owes=[]))
    return found
