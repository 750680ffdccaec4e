# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is known of NVIDIA's GPUs, branches and packages, with its date and source (private to this collection).

Data only; _nvidia_driver.py decides. Standard library only.
"""

from __future__ import annotations

import bisect
import typing as t

# As of 2026-11-22. First device id of each block, up to the next one. Sources: the PCI ID Repository (pci.ids), names
# GK, GM, GP, GV, TU, GA, GH, AD and GB of vendor 10de; from 2900 on every known id is of Blackwell, and NVIDIA says
# that what comes after it needs the open modules too.
_BLOCKS = (
    (0x0000, "older"),
    (0x0FC0, "kepler"),
    (0x1340, "maxwell"),
    (0x15F0, "pascal"),
    (0x1600, "maxwell"),
    (0x1700, "pascal"),
    (0x1740, "maxwell"),
    (0x1800, "older"),
    (0x1B00, "pascal"),
    (0x1D80, "volta"),
    (0x1E00, "turing"),
    (0x2080, "ampere"),
    (0x2180, "turing"),
    (0x2200, "ampere"),
    (0x2300, "hopper"),
    (0x2400, "ampere"),
    (0x2600, "ada"),
    (0x2900, "blackwell"),
)
# As of 2026-11-22: the GPU half of Grace Hopper, in the README of NVIDIA's open-gpu-kernel-modules.
_GRACE_HOPPER = (0x2342, 0x2345, 0x2348)


class Support(t.NamedTuple):
    """Which kernel modules drive a generation ("" for either), and the branches from and to which."""

    modules: str
    first: int
    last: int


NEWEST = 10**6
# As of 2026-11-22. Modules: NVIDIA's blog "Transitions Fully Towards Open-Source GPU Kernel Modules" (Blackwell and
# Grace Hopper open only; Turing to Hopper either; Maxwell, Pascal, Volta proprietary only). Branches: NVIDIA's driver
# archive; 470 is the last for Kepler, 580 the last for Maxwell, Pascal and Volta, 570 the first for Blackwell.
GENERATIONS: dict[str, Support] = {
    "older": Support("proprietary", 0, 390),
    "kepler": Support("proprietary", 0, 470),
    "maxwell": Support("proprietary", 0, 580),
    "pascal": Support("proprietary", 0, 580),
    "volta": Support("proprietary", 0, 580),
    "turing": Support("", 410, NEWEST),
    "ampere": Support("", 450, NEWEST),
    "ada": Support("", 525, NEWEST),
    "hopper": Support("", 525, NEWEST),
    "grace-hopper": Support("open", 535, NEWEST),
    "blackwell": Support("open", 570, NEWEST),
}
# The same blog: from this branch on NVIDIA's own installer takes the open modules where both would do.
OPEN_FROM = 560


def generation(device: str) -> str:
    """The generation of a GPU by its PCI device id, four hex digits."""
    number = int(device, 16)
    if number in _GRACE_HOPPER:
        return "grace-hopper"
    return _BLOCKS[bisect.bisect_right(_BLOCKS, (number, "~")) - 1][1]


class Recipe(t.NamedTuple):
    """What a source is made of on a distribution. {branch}, {suffix}, {open} and {kernel} are filled in.

    locked: packages that carry the driver's own version. companions: packages that come with it and have another one.
    modules: the package of the kernel modules, by flavour. signed: whether those load under Secure Boot as they are.
    components: those of the distribution's archive that hold it. stream: the module stream of dnf, by flavour.
    """

    manager: str
    locked: tuple[str, ...]
    modules: t.Mapping[str, str]
    headers: str
    companions: tuple[str, ...] = ()
    fabric: str = ""
    dkms: bool = True
    signed: bool = False
    modules_locked: bool = True
    needs_branch: bool = False
    components: tuple[str, ...] = ()
    stream: t.Mapping[str, str] = {}


# As of 2026-11-22, the packages of Debian 12 and 13. No fabric manager is among them.
_DEBIAN = Recipe(
    manager="apt",
    locked=("nvidia-smi", "libcuda1", "libnvidia-ml1", "libnvidia-cfg1", "libnvidia-ptxjitcompiler1"),
    modules={"open": "nvidia-open-kernel-dkms", "proprietary": "nvidia-kernel-dkms"},
    headers="linux-headers-{kernel}",
    companions=("nvidia-persistenced",),
    components=("contrib", "non-free", "non-free-firmware"),
)
# As of 2026-11-22: Ubuntu Server documentation, "NVIDIA drivers installation", manual installation of the -server
# branches. Canonical signs linux-modules-nvidia-*, whose versions are the kernel's.
_UBUNTU = Recipe(
    manager="apt",
    locked=("nvidia-headless-no-dkms-{branch}-server{open}", "nvidia-utils-{branch}-server"),
    modules={
        "open": "linux-modules-nvidia-{branch}-server-open-{kernel}",
        "proprietary": "linux-modules-nvidia-{branch}-server-{kernel}",
    },
    headers="",
    fabric="nvidia-fabricmanager-{branch}",
    dkms=False,
    signed=True,
    modules_locked=False,
    needs_branch=True,
    components=("restricted",),
)
# As of 2026-11-22: NVIDIA Driver Installation Guide, "Compute-only (Headless)" of each distribution.
_NVIDIA_DEBIAN = Recipe(
    manager="apt",
    locked=("nvidia-driver-cuda",),
    modules={"open": "nvidia-kernel-open-dkms", "proprietary": "nvidia-kernel-dkms"},
    headers="linux-headers-{kernel}",
    companions=("nvidia-persistenced",),
    fabric="nvidia-fabricmanager{suffix}",
    needs_branch=True,
)
_NVIDIA_UBUNTU = Recipe(
    manager="apt",
    locked=("libnvidia-compute{suffix}", "nvidia-utils{suffix}", "nvidia-compute-utils{suffix}"),
    modules={"open": "nvidia-dkms{suffix}-open", "proprietary": "nvidia-dkms{suffix}"},
    headers="linux-headers-{kernel}",
    fabric="nvidia-fabricmanager{suffix}",
    needs_branch=True,
)
_NVIDIA_RPM = Recipe(
    manager="dnf",
    locked=("nvidia-driver-cuda",),
    modules={"open": "kmod-nvidia-open-dkms", "proprietary": "kmod-nvidia-latest-dkms"},
    headers="kernel-devel-{kernel}",
    companions=("nvidia-persistenced",),
    fabric="nvidia-fabric-manager",
    needs_branch=True,
    stream={"open": "nvidia-driver:{branch}-open", "proprietary": "nvidia-driver:{branch}-dkms"},
)
# From this branch on the names of NVIDIA's Ubuntu packages, and of the fabric manager's, have no branch in them (the
# same guide, "Version locking").
UNVERSIONED_FROM = 590


class Extra(t.NamedTuple):
    """What stands beside the driver on wish. {cuda} is filled in. program: what tells that an image brought it."""

    package: str
    program: str
    unit: str


# The unit that describes the GPUs to container engines; _nvidia_driver_files.py renders it.
CDI_UNIT = "steadfast-nvidia-cdi.service"
# As of 2026-11-22, by the option that asks for them: NVIDIA Container Toolkit, "Installing"; DCGM, "Install DCGM". Both
# lie in NVIDIA's CUDA repositories beside the driver; neither is in the archive of Debian 12 or 13.
EXTRAS = {
    "container_toolkit": Extra("nvidia-container-toolkit", "nvidia-ctk", CDI_UNIT),
    "dcgm": Extra("datacenter-gpu-manager-4-cuda{cuda}", "dcgmi", "nvidia-dcgm.service"),
}
# The first branch that brings CUDA 13 (its release notes), and with it DCGM's package for that.
CUDA_13_FROM = 580


class Distribution(t.NamedTuple):
    """vendor: the distribution's folder in NVIDIA's repository. tried: whether this role has been run on it."""

    vendor: str
    recipes: t.Mapping[str, Recipe]
    tried: tuple[str, ...] = ()


# By ID and VERSION_ID of /etc/os-release; "9" stands for 9.4 too.
DISTRIBUTIONS: dict[tuple[str, str], Distribution] = {
    ("debian", "12"): Distribution("debian12", {"distribution": _DEBIAN, "nvidia": _NVIDIA_DEBIAN}, ("distribution",)),
    ("debian", "13"): Distribution("debian13", {"distribution": _DEBIAN, "nvidia": _NVIDIA_DEBIAN}, ("distribution",)),
    ("ubuntu", "22.04"): Distribution("ubuntu2204", {"distribution": _UBUNTU, "nvidia": _NVIDIA_UBUNTU}),
    ("ubuntu", "24.04"): Distribution("ubuntu2404", {"distribution": _UBUNTU, "nvidia": _NVIDIA_UBUNTU}),
    ("amzn", "2023"): Distribution("amzn2023", {"nvidia": _NVIDIA_RPM}),
    **{
        (name, "9"): Distribution("rhel9", {"nvidia": _NVIDIA_RPM})
        for name in ("rhel", "rocky", "almalinux", "centos", "ol")
    },
}
# As NVIDIA's repository names the processors that it has packages for.
VENDOR_MACHINES = {"x86_64": "x86_64", "aarch64": "sbsa"}
# What an upgrade by dnf leaves alone in NVIDIA's repository: its module stream's packages, not the container toolkit.
RPM_PACKAGES = (
    "nvidia-driver*", "nvidia-kmod-common", "kmod-nvidia-*", "nvidia-persistenced", "nvidia-modprobe",
    "nvidia-settings", "nvidia-xconfig", "nvidia-fabric*", "libnvidia-ml", "libnvidia-cfg", "libnvidia-fbc",
    "libnvidia-gpucomp",
)  # fmt: skip
# The key of NVIDIA's RPM repositories lies beside the packages, under this name.
RPM_KEY = "D42D0685.pub"

# Whatever belongs to the driver, as apt_preferences(5) and fnmatch take it. A pin is for one version of the driver, so
# that packages of other versions (a CUDA toolkit, the container toolkit) are not touched by it.
DRIVER_PACKAGES = ("nvidia-*", "libnvidia-*", "libcuda1", "libcudadebugger1", "libnvcuvid1", "firmware-nvidia-*")
