# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Hosts and wishes for the tests of the driver's plan."""

from __future__ import annotations

from typing import Any

from ansible_collections.steadfast.vllm.plugins.module_utils import _apt_sources

SECURITY, FIRST = "535.309.01-0+deb12u1", "535.261.03-1"
KEY = "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nabc\n-----END PGP PUBLIC KEY BLOCK-----\n"
H100, H200, GH200, B200, L4, A100, T4, V100, P100, M60, K80 = (
    "2330", "2335", "2342", "2901", "27b8", "20b0", "1eb8", "1db4", "15f8", "13f2", "102d",
)  # fmt: skip


def wished(**changes: Any) -> dict[str, Any]:
    return {
        "state": "present",
        "source": "distribution",
        "branch": "",
        "version": "",
        "modules": "auto",
        "kernel": "",
        "hold": ["driver"],
        "without_gpu": "fail",
        "reboot": False,
        "container_toolkit": False,
        "dcgm": False,
        "repository": "https://vendor.example/repos",
        "repository_key": KEY,
        **changes,
    }


def gpu(device: str, driver: str = "") -> dict[str, str]:
    return {"slot": "0000:3b:00.0", "device": device, "driver": driver}


def bookworm_offers() -> dict[str, list[str]]:
    """As Debian 12 had it on 2026-11-22: its security archive has no newer open modules."""
    both = [SECURITY, FIRST]
    names = ("nvidia-smi", "libcuda1", "libnvidia-ml1", "libnvidia-cfg1", "libnvidia-ptxjitcompiler1")
    return {
        **dict.fromkeys(names, both),
        "nvidia-kernel-dkms": both,
        "nvidia-open-kernel-dkms": [FIRST],
        "nvidia-persistenced": ["535.171.04-1~deb12u1"],
        "linux-headers-6.1.0-41-amd64": ["6.1.158-1"],
    }


def seen(**changes: Any) -> dict[str, Any]:
    """A Debian 12 host with an H100 and no driver; its repositories have been asked."""
    return {
        "euid": 0,
        "user": "root",
        "os_release": {"ID": "debian", "VERSION_ID": "12", "PRETTY_NAME": "Debian GNU/Linux 12 (bookworm)"},
        "machine": "x86_64",
        "running_kernel": "6.1.0-41-amd64",
        "gpus": [gpu(H100)],
        "switches": [],
        "secure_boot": False,
        "key_enrolled": False,
        "loaded": None,
        "users": [],
        "installed": {},
        "held": [],
        "images": [],
        "releases": {},
        "build_folder": False,
        "archive": True,
        "archive_files": ["/etc/apt/sources.list"],
        "lacking": [
            _apt_sources.Source(("http://a.example/debian",), ("bookworm",), ("contrib", "non-free"), ()),
        ],
        "available": bookworm_offers(),
        "headers": ["amd64", "cloud-amd64", "6.1.0-41-amd64"],
        "programs": [],
        "initramfs": ["update-initramfs", "-u", "-k", "all"],
        "pinned": "",
        "added": [],
        "module": "",
        "library": "",
        "smi": "",
        "stream": "",
        "view": None,
        **changes,
    }


def installed(version: str = SECURITY, modules: str = "nvidia-kernel-dkms") -> dict[str, str]:
    """The packages of a host that the role has converged."""
    names = ("nvidia-smi", "libcuda1", "libnvidia-ml1", "libnvidia-cfg1", "libnvidia-ptxjitcompiler1", modules)
    return {
        **dict.fromkeys(names, version),
        "nvidia-persistenced": "535.171.04-1~deb12u1",
        "linux-headers-6.1.0-41-amd64": "6.1.158-1",
    }
