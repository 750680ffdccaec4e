# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The hosts of the scenario nvidia_driver, and runs of the role on them."""

from __future__ import annotations

import re
import subprocess
from typing import Any

from lab import client
from lab.labkit.hosts import chosen
from lab.play import Run, fingerprint, play

PLAYBOOK = "molecule/nvidia_driver/converge.yml"
NAMES = tuple(host.name for host in chosen())
FIRST = NAMES[0]
# The version that a host starts with (molecule/nvidia_driver/inventory), and a newer one of its archive.
UPGRADES = {"driver1": ("535.261.03", "535.309.01")}
TOOLKIT = "nvidia-container-toolkit"
# Tasks of the role, as a run names them.
LOOK = "steadfast.vllm.nvidia_driver : Look at the host, and refuse what could not work"
INSTALL = "steadfast.vllm.nvidia_driver : Install, change or remove the driver"
KEEP = "steadfast.vllm.nvidia_driver : Leave what keeps the driver as it is"
FILES = (
    "/etc/apt/sources.list.d/steadfast-nvidia-driver.sources",
    "/etc/apt/preferences.d/steadfast-nvidia-driver",
    "/etc/apt/apt.conf.d/52steadfast-nvidia-driver",
    "/etc/modprobe.d/steadfast-nvidia-driver.conf",
    "/etc/systemd/system/steadfast-nvidia-cdi.service",
    "/etc/systemd/system/docker.service.d",
)


def with_two_versions() -> list[str]:
    return [name for name in NAMES if name in UPGRADES]


def driver(*arguments: str, **variables: Any) -> Run:
    """A run of the role, on all hosts unless a later --limit says otherwise."""
    where = ("-i", "molecule/nvidia_driver/inventory", "--limit", ",".join(NAMES))
    return play(*where, *arguments, variables=variables, playbook=PLAYBOOK)


def shell(host: str, script: str, check: bool = True) -> str:
    return client.on(host, "sh", "-c", script, check=check, timeout=300)


# Copies that tools make of the files of users before they change them.
BACKUPS = re.compile(r"/etc/(passwd|group|shadow|gshadow|subuid|subgid)-( |$)")


def state(host: str) -> list[str]:
    """All that a run could change on a host, line by line."""
    return [line for line in fingerprint()[host].splitlines() if not BACKUPS.search(line)]


def release(host: str) -> str:
    """The kernel whose headers are there."""
    return shell(host, "basename $(dirname $(ls -d /lib/modules/*/build | head -1))").strip()


def packages(host: str) -> set[str]:
    return set(shell(host, "dpkg-query -W -f '${db:Status-Abbrev} ${Package}\\n' | awk '/^.i/ {print $2}'").split())


def image_packages(host: str) -> set[str]:
    """Those of the image that the host was made from."""

    def podman(*words: str) -> str:
        return subprocess.run(["podman", *words], capture_output=True, text=True, check=True).stdout.strip()

    image = podman("inspect", "--format", "{{.Image}}", client.container(host))
    folder = podman("image", "mount", image)
    try:
        command = ["dpkg-query", f"--admindir={folder}/var/lib/dpkg", "-W", "-f", "${Package}\n"]
        return set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
    finally:
        podman("image", "unmount", image)
