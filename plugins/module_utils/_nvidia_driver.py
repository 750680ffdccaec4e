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

from ansible_collections.steadfast.vllm.plugins.module_utils import _nvidia_driver_obstacles as obstacles
from ansible_collections.steadfast.vllm.plugins.module_utils import _nvidia_driver_tables as tables
from ansible_collections.steadfast.vllm.plugins.module_utils._nvidia_driver_obstacles import Problem, Seen, Wishes
from ansible_collections.steadfast.vllm.plugins.module_utils._nvidia_driver_tables import Recipe

MIB = 2**20
# What DKMS takes for NVIDIA's modules while it builds and installs them. An estimate: 110 MiB were seen with two thirds
# of 535's objects built, before they are linked with their debugging information.
BUILD_BYTES = 800 * MIB
OPEN, PROPRIETARY = "open", "proprietary"
KERNEL_PACKAGES = ("linux-image-*", "linux-headers-*")


class Names(t.NamedTuple):
    """The packages of a recipe, filled in."""

    locked: tuple[str, ...]
    modules: str
    companions: tuple[str, ...]
    headers: tuple[str, ...]
    extras: tuple[str, ...]
    stream: str

    @property
    def driver(self) -> tuple[str, ...]:
        return (*self.locked, self.modules, *self.companions, *self.extras)


class Plan(t.NamedTuple):
    """What is to be true. packages: {name: version, "" for any}. kernel: the release that the modules are for.

    asks: packages whose versions have to be known before this is a plan; empty where it is one.
    swap: whether the driver itself changes, below whatever uses it. drops: the module stream of dnf that goes.
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
    swap: bool = False
    drops: str = ""


def plan(wished: Wishes, seen: Seen) -> Plan:
    """The plan, as far as what was seen allows."""
    generations = sorted({tables.generation(gpu["device"]) for gpu in seen["gpus"]})
    if wished["state"] == "absent":
        return _absent(wished, seen)
    if not generations and wished["without_gpu"] == "skip":
        return Plan(skipped="this machine has no NVIDIA GPU, and nvidia_driver_without_gpu is skip")
    problems = [*obstacles.machine(wished, seen), *obstacles.spelling(wished)]
    if wished["source"] == "preinstalled":
        problems += obstacles.extras_of_image(wished, seen)
        return Plan(problems=tuple(problems), kernel=seen["running_kernel"])
    made = obstacles.recipe(seen, wished)
    problems += obstacles.source(wished, seen, made)
    if made is None or problems_in(problems, "nvidia_driver_branch", "nvidia_driver_version"):
        return Plan(problems=tuple(problems))
    return _present(wished, seen, made, generations, problems)


def problems_in(problems: Sequence[Problem], *places: str) -> bool:
    return any(problem.place in places for problem in problems)


# The choice


def _present(wished: Wishes, seen: Seen, made: Recipe, generations: Sequence[str], problems: list[Problem]) -> Plan:
    kernel = wished["kernel"] or seen["running_kernel"]
    names = {flavour: _names(wished, made, flavour, kernel, seen) for flavour in (OPEN, PROPRIETARY)}
    problems += obstacles.modules(wished, generations)
    allowed = _allowed(wished, generations)
    # A driver that is there and fits stays at its version, also where something beside it is missing.
    stands = [flavour for flavour in allowed if _stands(wished, seen, made, names[flavour])]
    had = [flavour for flavour in stands if _complete(seen, names[flavour])]
    if made.manager == "dnf":
        flavour = _flavour(allowed, obstacles.branch_of(wished))
        problems += obstacles.secure_boot(seen, made) + obstacles.branch(generations, obstacles.branch_of(wished))
        problems += obstacles.kernel_hold(wished)
        swap = names[flavour].stream != seen["stream"]
        problems += obstacles.in_use(seen) if swap else []
        return _rpm(wished, names[flavour], flavour, kernel, problems, swap)
    if had:
        flavour, versions = had[0], seen["installed"]
    elif seen["available"] is None:
        asks = dict.fromkeys(name for each in names.values() for name in (*each.driver, *each.headers))
        return Plan(problems=tuple(problems), asks=tuple(asks))
    else:
        problems += obstacles.headers(wished, seen, made, kernel)
        flavour, versions, wrong = (
            (stands[0], seen["installed"], _absentees(wished, seen, names[stands[0]].companions))
            if stands
            else _choice(wished, seen["available"], made, names, allowed)
        )
        problems += wrong or obstacles.extras(wished, seen, names[flavour].extras)
    chosen = names[flavour]
    pinned = {name: versions.get(name, "") for name in chosen.locked}
    pinned[chosen.modules] = versions.get(chosen.modules, "") if made.modules_locked else ""
    version = next((obstacles.upstream(pinned[name]) for name in chosen.locked if pinned[name]), "")
    if not stands:
        problems += obstacles.secure_boot(seen, made) + obstacles.in_use(seen) + obstacles.foreign(seen)
    if version:
        problems += obstacles.branch(generations, version.partition(".")[0])
    packages = {**pinned, **dict.fromkeys((*chosen.companions, *chosen.extras, *_wanted_headers(seen, chosen)), "")}
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
        swap=not stands,
    )


def _names(wished: Wishes, made: Recipe, flavour: str, kernel: str, seen: Seen) -> Names:
    branch = obstacles.branch_of(wished)
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
        extras=tuple(
            extra.package.format(cuda=13 if int(branch or 0) >= tables.CUDA_13_FROM else 12)
            for option, extra in tables.EXTRAS.items()
            if wished[option]
        ),
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


def _stands(wished: Wishes, seen: Seen, made: Recipe, names: Names) -> bool:
    """Whether the driver itself is installed, one version of it, as wished."""
    installed = seen["installed"]
    if any(name not in installed for name in (*names.locked, names.modules)):
        return False
    locked = (*names.locked, names.modules) if made.modules_locked else names.locked
    versions = {obstacles.upstream(installed[name]) for name in locked}
    return len(versions) == 1 and _fits(wished, versions.pop())


def _complete(seen: Seen, names: Names) -> bool:
    """Whether all that goes with the driver is installed too."""
    return all(name in seen["installed"] for name in (*names.driver, *names.headers))


def _absentees(wished: Wishes, seen: Seen, companions: Sequence[str]) -> list[Problem]:
    missing = [name for name in companions if name not in seen["installed"] and not seen["available"].get(name)]
    return [obstacles.not_offered(wished, missing)] if missing else []


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
        return flavour, {}, [obstacles.not_offered(wished, missing)]
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
        {name: next((full for full in available[name] if obstacles.upstream(full) == version), "") for name in every},
        [],
    )


def _offered(available: Mapping[str, Sequence[str]], made: Recipe, names: Names) -> list[str]:
    """The versions that all locked packages have, newest first."""
    locked = (*names.locked, names.modules) if made.modules_locked else names.locked
    sets = [{obstacles.upstream(version) for version in available.get(name, ())} for name in locked]
    return sorted(set.intersection(*sets), key=_order, reverse=True) if sets else []


def _order(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version))


def _differs(installed: Mapping[str, str], name: str, wanted: str) -> bool:
    return name not in installed or bool(wanted and installed[name] != wanted)


def _wanted_headers(seen: Seen, names: Names) -> list[str]:
    """Those of a kernel that is not there yet are wanted only as far as there are any."""
    known = seen["available"] or {}
    return [name for name in names.headers if name in seen["installed"] or known.get(name)]


def _release(seen: Seen, kernel: str, names: Names) -> str:
    """The release of a kernel that may be named by its flavour, as cloud-amd64."""
    if kernel[:1].isdecimal():
        return kernel
    return next((seen["releases"][name] for name in names.headers if name in seen["releases"]), "")


def _holds(wished: Wishes, seen: Seen, names: Names) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What is to be held, and what was held and no longer is to be."""
    kernel = [name for name in seen["installed"] if any(fnmatchcase(name, like) for like in KERNEL_PACKAGES)]
    wanted = [*(names.driver if "driver" in wished["hold"] else ()), *(kernel if "kernel" in wished["hold"] else ())]
    return tuple(dict.fromkeys(wanted)), tuple(
        name for name in seen["held"] if name in names.driver and name not in wanted
    )


def _rpm(wished: Wishes, names: Names, flavour: str, kernel: str, problems: list[Problem], swap: bool) -> Plan:
    """dnf resolves by itself: the stream is the pin of the branch, a version one of the packages."""
    packages = {
        **dict.fromkeys((*names.locked, names.modules), str(wished["version"])),
        **dict.fromkeys((*names.companions, *names.extras, *names.headers), ""),
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
        swap=swap,
        persistence=True,
        fabric="nvidia-fabric-manager" in packages,
    )


# Removal


def _absent(wished: Wishes, seen: Seen) -> Plan:
    """All of the driver, and what came with it; a host that needs it for something is left alone."""
    gone = tuple(
        name for name in seen["installed"] if obstacles.is_driver(name) and (name in seen["added"] or _ours(seen, name))
    )
    drops = seen["stream"] if obstacles.manager(seen) == "dnf" else ""
    problems = [*obstacles.in_use(seen)] if gone or drops else []
    if seen["euid"] != 0:
        problems.append(Problem("become", seen["user"], "a driver is removed by root", "set become: true in the play"))
    return Plan(
        problems=tuple(problems),
        kernel=wished["kernel"] or seen["running_kernel"],
        remove=gone,
        unhold=tuple(name for name in seen["held"] if name in gone),
        swap=bool(gone or drops),
        drops=drops,
    )


def _ours(seen: Seen, name: str) -> bool:
    """Whether a driver package carries the version that this role's pin is for."""
    return bool(seen["pinned"]) and obstacles.upstream(seen["installed"][name]) == seen["pinned"]


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
    extra = [name for name in trial["removes"] if name not in made.remove and not obstacles.is_driver(name)]
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
