# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From what is seen of a host and what is wished to a plan for NVIDIA's driver, or to all that stands in its way. Pure.

Private to this collection. Standard library only. _nvidia_driver_host.py sees, _nvidia_driver_files.py renders.
A driver that is installed and fits the wishes stays as it is: a new version comes only where one is asked for.
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

MIB = 2**20
# What DKMS takes for NVIDIA's modules while it builds them and afterwards: measured at 0.5 GiB for 535 and 550.
BUILD_BYTES = 800 * MIB
OPEN, PROPRIETARY = "open", "proprietary"
# Their number as NVIDIA writes it: 535.309.01, and 580.65.06 as well as 570.133.20 and 595.45.
VERSION = re.compile(r"\d{3}\.\d+(\.\d+)?\Z")
KERNEL_PACKAGES = ("linux-image-*", "linux-headers-*")
# They hold the GPU's device all the time, and are the driver's own: nvidia-persistenced and nv-fabricmanager, in the 15
# letters that the kernel keeps of a name.
OWN_PROGRAMS = ("nvidia-persiste", "nv-fabricmanage")


class Problem(t.NamedTuple):
    """What stands in the way: the variable or thing, its value, why, and what to do."""

    place: str
    value: str
    why: str
    fix: str

    def __str__(self) -> str:
        return f"{self.place}: {self.value}: {self.why}; {self.fix}"


class Names(t.NamedTuple):
    """The packages of a recipe, filled in."""

    locked: tuple[str, ...]
    modules: str
    companions: tuple[str, ...]
    headers: tuple[str, ...]
    stream: str

    @property
    def driver(self) -> tuple[str, ...]:
        return (*self.locked, self.modules, *self.companions)


class Plan(t.NamedTuple):
    """What is to be true. packages: {name: version, "" for any}. kernel: the release that the modules are for.

    asks: packages whose versions have to be known before this is a plan; empty where it is one.
    """

    problems: tuple[Problem, ...] = ()
    skipped: str = ""
    version: str = ""
    modules: str = ""
    kernel: str = ""
    dkms: bool = False
    packages: Mapping[str, str] = {}
    install: tuple[str, ...] = ()
    remove: tuple[str, ...] = ()
    hold: tuple[str, ...] = ()
    unhold: tuple[str, ...] = ()
    stream: str = ""
    persistence: bool = False
    fabric: bool = False
    asks: tuple[str, ...] = ()


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


def plan(wished: Wishes, seen: Seen) -> Plan:
    """The plan, as far as what was seen allows."""
    generations = sorted({tables.generation(gpu["device"]) for gpu in seen["gpus"]})
    if wished["state"] == "absent":
        return _absent(wished, seen)
    if not generations and wished["without_gpu"] == "skip":
        return Plan(skipped="this machine has no NVIDIA GPU, and nvidia_driver_without_gpu is skip")
    problems = [*_machine(wished, seen), *_spelling(wished)]
    if wished["source"] == "preinstalled":
        return Plan(problems=tuple(problems), kernel=seen["running_kernel"])
    made = recipe(seen, wished)
    problems += _distribution(wished, seen, made)
    if made is None or problems_in(problems, "nvidia_driver_branch", "nvidia_driver_version"):
        return Plan(problems=tuple(problems))
    return _present(wished, seen, made, generations, problems)


def problems_in(problems: Sequence[Problem], *places: str) -> bool:
    return any(problem.place in places for problem in problems)


# What can be said without a look at packages


def _machine(wished: Wishes, seen: Seen) -> Iterator[Problem]:
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


def _spelling(wished: Wishes) -> Iterator[Problem]:
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


def _distribution(wished: Wishes, seen: Seen, made: Recipe | None) -> Iterator[Problem]:
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


# The choice


def _present(wished: Wishes, seen: Seen, made: Recipe, generations: Sequence[str], problems: list[Problem]) -> Plan:
    kernel = wished["kernel"] or seen["running_kernel"]
    names = {flavour: _names(made, flavour, branch_of(wished), kernel, seen) for flavour in (OPEN, PROPRIETARY)}
    problems += _modules_wish(wished, generations)
    allowed = _allowed(wished, generations)
    had = [flavour for flavour in allowed if _satisfied(wished, seen, made, names[flavour])]
    if made.manager == "dnf":
        flavour = _flavour(allowed, branch_of(wished))
        problems += _secure_boot(seen, made) + _suits(generations, branch_of(wished))
        return _rpm(wished, names[flavour], flavour, kernel, problems)
    if had:
        flavour, versions = had[0], seen["installed"]
    elif seen["available"] is None:
        asks = dict.fromkeys(name for each in names.values() for name in (*each.driver, *each.headers))
        return Plan(problems=tuple(problems), asks=tuple(asks))
    else:
        problems += _headers(wished, seen, made, kernel)
        flavour, versions, wrong = _choice(wished, seen["available"], made, names, allowed)
        problems += wrong
    chosen = names[flavour]
    pinned = {name: versions.get(name, "") for name in chosen.locked}
    pinned[chosen.modules] = versions.get(chosen.modules, "") if made.modules_locked else ""
    version = next((upstream(pinned[name]) for name in chosen.locked if pinned[name]), "")
    if not had:
        problems += _secure_boot(seen, made) + _in_use(seen) + _foreign(seen)
    if version:
        problems += _suits(generations, version.partition(".")[0])
    packages = {**pinned, **dict.fromkeys((*chosen.companions, *_wanted_headers(seen, chosen)), "")}
    other = names[PROPRIETARY if flavour == OPEN else OPEN].modules
    hold, unhold = _holds(wished, seen, chosen)
    return Plan(
        problems=tuple(problems),
        version=version,
        modules=flavour,
        kernel=_release(seen, kernel, chosen),
        dkms=made.dkms,
        packages=packages,
        install=tuple(name for name, wanted in packages.items() if _differs(seen["installed"], name, wanted)),
        remove=(other,) if other != chosen.modules and other in seen["installed"] else (),
        hold=hold,
        unhold=unhold,
        persistence=True,
        fabric=bool(seen["switches"]),
    )


def _names(made: Recipe, flavour: str, branch: str, kernel: str, seen: Seen) -> Names:
    fill = {
        "branch": branch,
        "suffix": f"-{branch}" if branch.isdecimal() and int(branch) < tables.UNVERSIONED_FROM else "",
        "open": "-open" if flavour == OPEN else "",
        "kernel": kernel,
    }
    locked = [name.format(**fill) for name in made.locked]
    if seen["switches"] and made.fabric:
        locked.append(made.fabric.format(**fill))
    headers: list[str] = []
    if made.headers and not seen["build_folder"]:
        headers.append(made.headers.format(**fill))
    if made.headers and made.manager == "apt":
        # A new kernel comes with its headers, so that DKMS does not miss it.
        headers += [image.replace("linux-image-", "linux-headers-", 1) for image in seen["images"]]
    return Names(
        locked=tuple(locked),
        modules=made.modules[flavour].format(**fill),
        companions=made.companions,
        headers=tuple(dict.fromkeys(headers)),
        stream=made.stream.get(flavour, "").format(**fill),
    )


def _allowed(wished: Wishes, generations: Sequence[str]) -> list[str]:
    """The flavours that drive all of the GPUs, the wished one alone where one is."""
    if wished["modules"] != "auto":
        return [wished["modules"]]
    needed = {tables.GENERATIONS[name].modules for name in generations} - {""}
    return sorted(needed) or [PROPRIETARY, OPEN]


def _flavour(allowed: Sequence[str], branch: str) -> str:
    if len(allowed) == 1:
        return allowed[0]
    return OPEN if int(branch or 0) >= tables.OPEN_FROM else PROPRIETARY


def _modules_wish(wished: Wishes, generations: Sequence[str]) -> list[Problem]:
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


def _suits(generations: Sequence[str], branch: str) -> list[Problem]:
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


def _satisfied(wished: Wishes, seen: Seen, made: Recipe, names: Names) -> bool:
    """Whether the driver is installed, one version of it, as wished."""
    installed = seen["installed"]
    if any(name not in installed for name in (*names.driver, *names.headers)):
        return False
    locked = (*names.locked, names.modules) if made.modules_locked else names.locked
    versions = {upstream(installed[name]) for name in locked}
    return len(versions) == 1 and _fits(wished, versions.pop())


def _fits(wished: Wishes, version: str) -> bool:
    if wished["version"]:
        return version == str(wished["version"])
    return not wished["branch"] or version.partition(".")[0] == str(wished["branch"])


def _choice(
    wished: Wishes,
    available: Mapping[str, Sequence[str]],
    made: Recipe,
    names: Mapping[str, Names],
    allowed: Sequence[str],
) -> tuple[str, dict[str, str], list[Problem]]:
    """The flavour, the version of each package, and why there is none. The newest that all packages have."""
    offers = {flavour: _offered(available, made, names[flavour]) for flavour in allowed}
    fitting = {flavour: [v for v in offers[flavour] if _fits(wished, v)] for flavour in allowed}
    flavour = allowed[0]
    if len(allowed) > 1:
        best = next(iter(fitting[PROPRIETARY] or fitting[OPEN]), "")
        wanted = _flavour(allowed, best.partition(".")[0])
        flavour = wanted if fitting[wanted] or not fitting[allowed[0]] else allowed[0]
    chosen = names[flavour]
    every = [*chosen.locked, chosen.modules, *chosen.companions]
    missing = [name for name in every if not available.get(name)]
    if missing:
        return flavour, {}, [_not_offered(wished, missing)]
    if not fitting[flavour]:
        asked = "nvidia_driver_version" if wished["version"] else "nvidia_driver_branch"
        return (
            flavour,
            {},
            [
                Problem(
                    asked,
                    wished["version"] or wished["branch"] or "''",
                    f"the source {wished['source']} does not offer it with {flavour} kernel modules for this host",
                    f"it offers {', '.join(offers[flavour]) or 'no version that all its packages share'}",
                )
            ],
        )
    version = fitting[flavour][0]
    return (
        flavour,
        {name: next((full for full in available[name] if upstream(full) == version), "") for name in every},
        [],
    )


def _not_offered(wished: Wishes, missing: Sequence[str]) -> Problem:
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


def _offered(available: Mapping[str, Sequence[str]], made: Recipe, names: Names) -> list[str]:
    """The versions that all locked packages have, newest first."""
    locked = (*names.locked, names.modules) if made.modules_locked else names.locked
    sets = [{upstream(version) for version in available.get(name, ())} for name in locked]
    return sorted(set.intersection(*sets), key=_order, reverse=True) if sets else []


def _order(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version))


def _differs(installed: Mapping[str, str], name: str, wanted: str) -> bool:
    return name not in installed or bool(wanted and installed[name] != wanted)


def _headers(wished: Wishes, seen: Seen, made: Recipe, kernel: str) -> list[Problem]:
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


def _wanted_headers(seen: Seen, names: Names) -> list[str]:
    """Those of a kernel that is not there yet are wanted only as far as there are any."""
    known = seen["available"] or {}
    return [name for name in names.headers if name in seen["installed"] or known.get(name)]


def _release(seen: Seen, kernel: str, names: Names) -> str:
    """The release of a kernel that may be named by its flavour, as cloud-amd64."""
    if kernel[:1].isdecimal():
        return kernel
    return next((seen["releases"][name] for name in names.headers if name in seen["releases"]), "")


def _secure_boot(seen: Seen, made: Recipe) -> list[Problem]:
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


def _in_use(seen: Seen) -> list[Problem]:
    """A library that is changed below a running program ends with `Driver/library version mismatch` in the next one."""
    users = [user for user in seen["users"] if user["command"] not in OWN_PROGRAMS]
    if not users:
        return []
    told = ", ".join(f"{user['command']} (pid {user['pid']})" for user in users[:5])
    return [
        Problem(
            "GPU",
            told,
            "these programs use it, and the driver below them is to be changed",
            "drain the host and stop them first (vllm-keeper drain, then vllm-keeper stop), and run again",
        )
    ]


def _foreign(seen: Seen) -> list[Problem]:
    """NVIDIA's own installer, and images that used it, leave files that no package knows and that packages overwrite."""
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


def _holds(wished: Wishes, seen: Seen, names: Names) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What is to be held, and what was held and no longer is to be."""
    kernel = [name for name in seen["installed"] if any(fnmatchcase(name, like) for like in KERNEL_PACKAGES)]
    wanted = [*(names.driver if "driver" in wished["hold"] else ()), *(kernel if "kernel" in wished["hold"] else ())]
    return tuple(dict.fromkeys(wanted)), tuple(
        name for name in seen["held"] if name in names.driver and name not in wanted
    )


def _rpm(wished: Wishes, names: Names, flavour: str, kernel: str, problems: list[Problem]) -> Plan:
    """dnf resolves by itself: the stream is the pin of the branch, a version one of the packages."""
    packages = {
        **dict.fromkeys((*names.locked, names.modules), str(wished["version"])),
        **dict.fromkeys((*names.companions, *names.headers), ""),
    }
    return Plan(
        problems=tuple(problems),
        version=str(wished["version"]),
        modules=flavour,
        kernel=kernel,
        dkms=True,
        packages=packages,
        install=tuple(packages),
        stream=names.stream,
        persistence=True,
        fabric="nvidia-fabric-manager" in packages,
    )


# Removal


def _absent(wished: Wishes, seen: Seen) -> Plan:
    """All of the driver, and what came with it; a host that needs it for something is left alone."""
    known = distribution(seen)
    if known and all(each.manager == "dnf" for each in known.recipes.values()):
        why, fix = "this role does not remove what dnf installed", "dnf module remove --all nvidia-driver"
        return Plan(problems=(Problem("nvidia_driver_state", "absent", why, fix),))
    gone = tuple(name for name in seen["installed"] if is_driver(name) and (name in seen["added"] or _ours(seen, name)))
    problems = [*_in_use(seen)] if gone else []
    if seen["euid"] != 0:
        problems.append(Problem("become", seen["user"], "a driver is removed by root", "set become: true in the play"))
    return Plan(
        problems=tuple(problems),
        kernel=wished["kernel"] or seen["running_kernel"],
        remove=gone,
        unhold=tuple(name for name in seen["held"] if name in gone),
    )


def _ours(seen: Seen, name: str) -> bool:
    """Whether a driver package carries the version that this role's pin is for."""
    return bool(seen["pinned"]) and upstream(seen["installed"][name]) == seen["pinned"]


# After a look at what the installation would do


def simulated(made: Plan, seen: Seen) -> list[Problem]:
    """What apt's own rehearsal of the plan, and the room on the disks, say against it."""
    trial = seen["trial"]
    if trial["error"]:
        return [
            Problem(
                "apt",
                " ".join(f"{name}={version}" if version else name for name, version in made.packages.items()),
                f"apt cannot install this here: {trial['error']}",
                "mend what it names (apt-get --fix-broken install, holds, pins of your own), and run again",
            )
        ]
    extra = [name for name in trial["removes"] if name not in made.remove and not is_driver(name)]
    if extra:
        return [
            Problem(
                "apt",
                ", ".join(extra),
                "apt would remove these packages to install the driver",
                "remove them yourself if that is right, and run again",
            )
        ]
    return list(_room(trial, seen["disks"], made.dkms))


def _room(trial: Mapping[str, t.Any], disks: Sequence[Mapping[str, t.Any]], dkms: bool) -> Iterator[Problem]:
    """What is wanted from one file system is added up: each alone may fit where all together do not."""
    needs = {"usr": trial["disk"], "archives": trial["download"], "build": BUILD_BYTES if dkms else 0}
    for device in dict.fromkeys(disk["device"] for disk in disks):
        here = [disk for disk in disks if disk["device"] == device]
        need, free = sum(needs[disk["for"]] for disk in here), here[0]["free"]
        if need > free:
            yield Problem(
                "disk",
                f"{free // MIB} MiB free at {', '.join(disk['path'] for disk in here)}",
                f"the driver takes {need // MIB} MiB there while it is installed",
                f"free {(need - free) // MIB + 1} MiB or add space",
            )


# After the installation


def verdict(seen: Seen, bound: float) -> tuple[list[Problem], str]:
    """What is wrong with an installed driver, and why a reboot is owed ("" where none is)."""
    module, library, loaded = seen["module"], seen["library"], seen["loaded"]
    if not library:
        return [Problem("driver", "no libcuda.so.1", "NVIDIA's libraries are not there", "install a driver")], ""
    if module and module != library:
        why = f"the kernel modules on the disk are not of the libraries' version {library}"
        return [Problem("driver", module, why, "install both from one source")], ""
    if not seen["gpus"]:
        return [], ""
    if loaded is None or loaded["version"] != library:
        running = f"version {loaded['version']} is loaded" if loaded else "no module is loaded"
        return [], f"the driver on the disk is {library}, and {running}"
    if seen["smi"]:
        return [
            Problem(
                "nvidia-smi",
                seen["smi"],
                f"it does not answer within {bound:g} s",
                "look at the kernel's log (journalctl -k -g NVRM)",
            )
        ], ""
    return [], ""
