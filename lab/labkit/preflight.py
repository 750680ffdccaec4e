# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether this machine can run the lab: everything is looked at first, and told at once."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

GIB = 1 << 30
MEMORY_TOTAL = 10 * GIB
# two vLLM servers of 2.8 GB each, and what the hosts themselves take
MEMORY_FREE = 7 * GIB
DISK_FIRST = 15 * GIB
DISK_AGAIN = 5 * GIB
TOOLS = {
    "podman": "podman",
    "runc": "runc",
    "mmdebstrap": "mmdebstrap",
    "unshare": "util-linux",
    "setpriv": "util-linux",
    "/usr/lib/podman/netavark": "netavark",
    "/usr/lib/podman/aardvark-dns": "aardvark-dns",
    "/usr/share/keyrings/debian-archive-keyring.gpg": "debian-archive-keyring",
}
# the hierarchies that systemd and the limits of the units need where cgroups are of version 1
CONTROLLERS = ("systemd", "memory", "pids", "cpu")


@dataclass(frozen=True)
class Found:
    """What was found out about the machine."""

    root: bool
    missing: tuple[str, ...]
    cgroup: str
    cgroup_problem: str | None
    memory_total: int
    memory_free: int
    disk_free: dict[str, int]
    cache: str


def problems(found: Found, *, first: bool, hosts_up: bool) -> list[str]:
    """Why the lab cannot run here, each with a way out. FIRST: images and wheels are still to be made."""
    texts = []
    if not found.root:
        texts.append("not root: hosts with a real systemd need it; run this as root or with sudo -E")
    if found.missing:
        packages = " ".join(sorted(set(found.missing)))
        texts.append(f"missing here: {packages}; apt-get install --no-install-recommends {packages}")
    if found.cgroup_problem:
        texts.append(f"control groups ({found.cgroup}): {found.cgroup_problem}")
    if found.memory_total < MEMORY_TOTAL:
        texts.append(f"{_gib(found.memory_total)} of memory: two vLLM servers on the CPU need a machine of 10 GiB")
    elif not hosts_up and found.memory_free < MEMORY_FREE:
        texts.append(
            f"only {_gib(found.memory_free)} of memory are free, 7 GiB are needed: end other work, "
            "or another lab (lab/destroy.yml with its STEADFAST_LAB)"
        )
    need = DISK_FIRST if first else 0 if hosts_up else DISK_AGAIN
    for place, free in found.disk_free.items():
        if free < need:
            texts.append(
                f"{place}: {_gib(free)} free, {_gib(need)} needed; make room"
                + (", or name another folder with STEADFAST_CACHE" if place == found.cache else "")
            )
    return texts


def _gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB"


def cgroup_kind(mounts: str) -> tuple[str, dict[str, str]]:
    """v2, v1 or hybrid, and where each hierarchy is mounted, from the text of /proc/self/mounts."""
    where: dict[str, str] = {}
    for line in mounts.splitlines():
        parts = line.split()
        if len(parts) < 4:
            continue
        _, place, kind, options = parts[:4]
        if kind == "cgroup2":
            where.setdefault("unified", place)
        elif kind == "cgroup":
            for name in options.split(","):
                where.setdefault(name.removeprefix("name="), place)
    if where.get("unified") == "/sys/fs/cgroup":
        return "v2", where
    if "memory" in where or "systemd" in where:
        return ("hybrid" if "unified" in where else "v1"), where
    return "none", where


def cgroup_problem(kind: str, where: dict[str, str], writable: Callable[[str], bool]) -> str | None:
    if kind == "none":
        return "no hierarchy is mounted; run on a machine (or a VM) whose /sys/fs/cgroup is there"
    if kind == "v2":
        places = [where["unified"]]
    else:
        absent = [name for name in CONTROLLERS if name not in where]
        if "systemd" in absent:
            return (
                "the hierarchy name=systemd is not mounted, without which no systemd starts: mkdir -p "
                "/sys/fs/cgroup/systemd && mount -t cgroup -o none,name=systemd cgroup /sys/fs/cgroup/systemd"
            )
        if absent:
            return f"no hierarchy for {', '.join(absent)}; boot with them on, or use a VM"
        places = [where[name] for name in CONTROLLERS]
    shut = [place for place in places if not writable(place)]
    if shut:
        return f"{', '.join(shut)} cannot be written: this is a container without that right; use a VM or a machine"
    return None


def _writable(place: str) -> bool:
    """Whether a group can be made there; trying is the only answer that holds in a container."""
    probe = Path(place) / f"steadfast-lab-probe-{os.getpid()}"
    try:
        probe.mkdir()
        probe.rmdir()
    except OSError:
        return False
    return True


def _existing(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path


def look(cache: Path) -> Found:
    kind, where = cgroup_kind(Path("/proc/self/mounts").read_text())
    memory = {}
    for line in Path("/proc/meminfo").read_text().splitlines():
        key, _, value = line.partition(":")
        memory[key] = int(value.split()[0]) * 1024
    storage = Path("/var/lib/containers")
    places = {str(place): shutil.disk_usage(_existing(place)).free for place in (storage, cache)}
    root = os.geteuid() == 0
    return Found(
        root=root,
        missing=tuple(package for tool, package in TOOLS.items() if not _installed(tool)),
        cgroup=kind,
        cgroup_problem=cgroup_problem(kind, where, _writable) if root else None,
        memory_total=memory["MemTotal"],
        memory_free=memory["MemAvailable"],
        disk_free=places,
        cache=str(cache),
    )


def _installed(tool: str) -> bool:
    if tool.startswith("/usr/lib/podman/"):
        name = Path(tool).name
        return any(Path(folder, name).exists() for folder in ("/usr/lib/podman", "/usr/libexec/podman"))
    return Path(tool).exists() if tool.startswith("/") else shutil.which(tool) is not None
