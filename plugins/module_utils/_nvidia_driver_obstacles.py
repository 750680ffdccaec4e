# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What stands in the way of NVIDIA's driver on a host, each with its fix (private to this collection). Pure.

_nvidia_driver.py asks these on its way to a plan.
"""

from __future__ import annotations

import re
import typing as t
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase

from ansible_collections.steadfast.vllm.plugins.module_utils import _nvidia_driver_tables as tables
from ansible_collections.steadfast.vllm.plugins.module_utils._nvidia_driver_tables import Recipe

Seen = Mapping[str, t.Any]
Wishes = Mapping[str, t.Any]

# Their number as NVIDIA writes it: 535.309.01, and 580.65.06 as well as 570.133.20 and 595.45.
VERSION = re.compile(r"\d{3}\.\d+(\.\d+)?\Z")
# They hold the GPU's device all the time, and let go of it when the driver is changed: nvidia-persistenced,
# nv-fabricmanager and DCGM's engine, in the 15 letters that the kernel keeps of a name, and the keeper's reader.
OWN_PROGRAMS = ("nvidia-persiste", "nv-fabricmanage", "nv-hostengine", "vllm-keeper")

# What else there is to do where one of tables.EXTRAS is not wanted.
WITHOUT = {"container_toolkit": ", with service_compose_gpus: devices or none", "dcgm": ""}


class Problem(t.NamedTuple):
    """What stands in the way: the variable or thing, its value, why, and what to do."""

    place: str
    value: str
    why: str
    fix: str

    def __str__(self) -> str:
        return f"{self.place}: {self.value}: {self.why}; {self.fix}"


def upstream(version: str) -> str:
    """The driver's own version in that of a package: 535.309.01 of 1:535.309.01-0+deb12u1."""
    return version.rpartition(":")[2].partition("-")[0]


def is_driver(package: str) -> bool:
    """Whether a package is of the driver."""
    return any(fnmatchcase(package, pattern) for pattern in tables.DRIVER_PACKAGES)


def branch_of(wished: Wishes) -> str:
    """The branch that is asked for, be it by a version; "" for any."""
    return str(wished["branch"] or wished["version"].partition(".")[0])


def distribution(seen: Seen) -> tables.Distribution | None:
    """What is known of the host's distribution."""
    identity, version = seen["os_release"].get("ID", ""), seen["os_release"].get("VERSION_ID", "")
    return tables.DISTRIBUTIONS.get((identity, version)) or tables.DISTRIBUTIONS.get(
        (identity, version.partition(".")[0])
    )


def recipe(seen: Seen, wished: Wishes) -> Recipe | None:
    """How the wished source is installed there."""
    known = distribution(seen)
    return known.recipes.get(wished["source"]) if known else None


def manager(seen: Seen) -> str:
    """The program that installs packages there; "" on a distribution that is not known."""
    known = distribution(seen)
    return next((each.manager for each in known.recipes.values()), "") if known else ""


def kernel_hold(wished: Wishes) -> list[Problem]:
    if "kernel" not in wished["hold"]:
        return []
    why = "dnf holds no package by itself; what holds the driver is an exclusion in its repository"
    return [Problem("nvidia_driver_hold", "kernel", why, "leave it out, and hold kernels with dnf versionlock")]


def machine(wished: Wishes, seen: Seen) -> Iterator[Problem]:
    if seen["euid"] != 0:
        yield Problem("become", seen["user"], "a driver is installed by root", "set become: true in the play")
    if not seen["gpus"] and wished["without_gpu"] == "fail":
        yield Problem(
            "nvidia_driver_without_gpu",
            "fail",
            "no PCI device of this machine is an NVIDIA GPU",
            "take the host out of the play, or set it to skip (do nothing here) or install (for an image that will run "
            "on a machine with one)",
        )
    held = [gpu["slot"] for gpu in seen["gpus"] if gpu["driver"] == "nouveau"]
    if held and not wished["reboot"] and wished["source"] != "preinstalled":
        yield Problem(
            "nouveau",
            ", ".join(held),
            "the kernel's own driver holds the GPU and lets go of it at a reboot only",
            "set nvidia_driver_reboot: true, so that the host is rebooted once nouveau is blacklisted",
        )


def spelling(wished: Wishes) -> Iterator[Problem]:
    version, branch = wished["version"], wished["branch"]
    if version and not VERSION.match(version):
        yield Problem(
            "nvidia_driver_version",
            version,
            "is no version of NVIDIA's driver",
            'write it as NVIDIA does, without the package\'s revision and in quotes, as "580.95.05"',
        )
    elif branch and not re.fullmatch(r"\d{3}", branch):
        yield Problem("nvidia_driver_branch", branch, "is no branch", 'write its three digits in quotes, as "580"')
    elif version and branch and version.partition(".")[0] != branch:
        yield Problem(
            "nvidia_driver_branch", branch, f"nvidia_driver_version is {version}, of another branch", "leave one out"
        )


def source(wished: Wishes, seen: Seen, made: Recipe | None) -> Iterator[Problem]:
    release, source = seen["os_release"], wished["source"]
    name = release.get("PRETTY_NAME") or f"{release.get('ID', '-')} {release.get('VERSION_ID', '-')}"
    known = distribution(seen)
    if known is None:
        every = ", ".join(sorted({f"{identity} {version}" for identity, version in tables.DISTRIBUTIONS}))
        yield Problem("distribution", name, "is not known to this role", f"use one of {every}; or source preinstalled")
    elif made is None:
        yield Problem(
            "nvidia_driver_source",
            source,
            f"{name} brings no driver of its own that this role knows",
            f"use {' or '.join([*known.recipes, 'preinstalled'])}",
        )
    elif source == "nvidia" and seen["machine"] not in tables.VENDOR_MACHINES:
        yield Problem(
            "nvidia_driver_source",
            source,
            f"NVIDIA has no packages for the processor {seen['machine']}",
            f"use a host with one of {', '.join(tables.VENDOR_MACHINES)}",
        )
    if made and made.manager == "apt" and seen["switches"] and not made.fabric:
        yield Problem(
            "NVSwitch",
            ", ".join(device["slot"] for device in seen["switches"]),
            f"GPUs behind it work with a fabric manager of the driver's version, and the archive of {name} has none",
            "set nvidia_driver_source: nvidia",
        )
    if made and made.needs_branch and not branch_of(wished):
        yield Problem(
            "nvidia_driver_branch",
            "''",
            f"several branches stand side by side in the source {source} on {name}",
            'name one, as "580", which vLLM\'s CUDA 13 wheels need at least',
        )
    if made and made.manager == "apt" and source == "nvidia" and not wished["repository_key"].strip():
        yield Problem(
            "nvidia_driver_repository_key",
            "''",
            "apt takes packages only from a repository whose key it has",
            "give the text of NVIDIA's key: lookup('ansible.builtin.file', ...) of the .pub file beside the packages",
        )
    if made and made.components and not seen["archive"]:
        yield Problem(
            "apt",
            ", ".join(seen["archive_files"]) or "no source",
            f"none of the host's sources is the archive of {name} itself, with the component main",
            f"add one; this role adds {', '.join(made.components)} to it",
        )


def modules(wished: Wishes, generations: Sequence[str]) -> list[Problem]:
    needed = {name: tables.GENERATIONS[name].modules for name in generations if tables.GENERATIONS[name].modules}
    if len(set(needed.values())) > 1:
        return [
            Problem(
                "gpus",
                ", ".join(needed),
                "one needs the open kernel modules and another the proprietary ones",
                "no driver serves both: take one kind out of the machine",
            )
        ]
    return [
        Problem(
            "nvidia_driver_modules",
            wished["modules"],
            f"a GPU of the generation {name} needs the {flavour} kernel modules",
            f"set it to {flavour} or auto",
        )
        for name, flavour in needed.items()
        if wished["modules"] not in ("auto", flavour)
    ]


def branch(generations: Sequence[str], branch: str) -> list[Problem]:
    found = []
    for name in generations:
        support = tables.GENERATIONS[name]
        if not support.first <= int(branch or support.first) <= support.last:
            end = f"from {support.first} on" if int(branch) < support.first else f"up to {support.last}"
            found.append(
                Problem(
                    "nvidia_driver_branch",
                    branch,
                    f"does not drive a GPU of the generation {name}, which branches {end} do",
                    "choose another branch with nvidia_driver_branch, or another nvidia_driver_source",
                )
            )
    return found


def not_offered(wished: Wishes, missing: Sequence[str]) -> Problem:
    if branch_of(wished):
        place, value = "nvidia_driver_branch", branch_of(wished)
    else:
        place, value = "nvidia_driver_source", wished["source"]
    return Problem(
        place,
        value,
        f"apt finds no package {', '.join(missing)} for this host",
        "see what there is with apt-cache search nvidia once the source is enabled, and choose another branch, source "
        "or kernel",
    )


def extras(wished: Wishes, seen: Seen, packages: Sequence[str]) -> list[Problem]:
    """Those that no source of the host has; an option's value is of no interest, since it is only ever true."""
    options = [option for option in tables.EXTRAS if wished[option]]
    return [
        Problem(
            f"nvidia_driver_{option}",
            "true",
            f"neither the source {wished['source']} nor the host's own sources have {package}",
            "set nvidia_driver_source: nvidia, whose repository has it; or add NVIDIA's repository of it to the host's "
            f"own sources; or set it to false{WITHOUT[option]}",
        )
        for option, package in zip(options, packages)
        if package not in seen["installed"] and not seen["available"].get(package)
    ]


def extras_of_image(wished: Wishes, seen: Seen) -> list[Problem]:
    """Nothing is installed with source preinstalled, so the image has to have them."""
    return [
        Problem(
            f"nvidia_driver_{option}",
            "true",
            f"the image has no {extra.program}, and nvidia_driver_source: preinstalled installs nothing",
            f"install {extra.package.format(cuda=13)} into it, or set it to false{WITHOUT[option]}",
        )
        for option, extra in tables.EXTRAS.items()
        if wished[option] and extra.program not in seen["programs"]
    ]


def headers(wished: Wishes, seen: Seen, made: Recipe, kernel: str) -> list[Problem]:
    if not made.headers or seen["build_folder"]:
        return []
    package = made.headers.format(kernel=kernel)
    if package in seen["installed"] or seen["available"].get(package):
        return []
    some = ", ".join(seen["headers"][:6]) or "none at all"
    return [
        Problem(
            "nvidia_driver_kernel",
            kernel if wished["kernel"] else f"'' (the running {kernel})",
            f"the host's sources have no {package}, which the kernel modules are built with",
            f"boot a kernel that they have headers for, or name one that will be booted (there is {some}); of a kernel "
            f"of your own put the headers at /lib/modules/{kernel}/build",
        )
    ]


def secure_boot(seen: Seen, made: Recipe) -> list[Problem]:
    if not seen["secure_boot"] or made.signed or seen["key_enrolled"]:
        return []
    return [
        Problem(
            "Secure Boot",
            "on",
            "the firmware lets only signed kernel modules in, and it knows no key of those that DKMS builds here",
            "use a distribution that signs them (Ubuntu with nvidia_driver_source: distribution); or have DKMS's key "
            "enrolled (mokutil --import /var/lib/dkms/mok.pub, reboot, confirm at the console); or turn it off",
        )
    ]


def in_use(seen: Seen, why: str = "the driver below them is to be changed") -> list[Problem]:
    """A library that is changed below a running program ends with `Driver/library version mismatch` in the next one."""
    users = [user for user in seen["users"] if user["command"] not in OWN_PROGRAMS]
    if not users:
        return []
    told = ", ".join(f"{user['command']} (pid {user['pid']})" for user in users[:5])
    return [
        Problem(
            "GPU",
            told,
            f"these programs use it, and {why}",
            "have servers of this collection drained and stopped host by host: ansible-playbook "
            "steadfast.vllm.driver_upgrade; stop others yourself, and run again",
        )
    ]


def foreign(seen: Seen) -> list[Problem]:
    """NVIDIA's own installer, and images that used it, leave files that no package knows and that packages replace."""
    versions = {upstream(version) for name, version in seen["installed"].items() if is_driver(name)}
    if not seen["library"] or seen["library"] in versions:
        return []
    return [
        Problem(
            "driver",
            f"libcuda.so.{seen['library']}",
            "a driver is here that did not come in packages",
            "keep it with nvidia_driver_source: preinstalled, or remove it (nvidia-uninstall) and run again",
        )
    ]
