# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What stands in the way of a host's plan: pure checks of what was seen against what is wanted.

Private to this collection. Standard library only. A check is a generator of findings, listed in its stage in STAGES;
_host.py sees. A check that has nothing to look at (no instance, no disk asked for) yields nothing.
"""

from __future__ import annotations

import ipaddress
import typing as t
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath

from ansible_collections.steadfast.vllm.plugins.module_utils import _gpu_checks, _gpu_plan, _start_checks
from ansible_collections.steadfast.vllm.plugins.module_utils._findings import (
    Check,
    Finding,
    Seen,
    Wanted,
    error,
    fine,
    human,
    warning,
)

MIB = 2**20

# As of 2026-11-22. Ids and versions as /etc/os-release has them; "9" stands for 9.4 too.
SUPPORTED: dict[str, list[str]] = {
    "debian": ["12", "13"],
    "ubuntu": ["22.04", "24.04"],
    "amzn": ["2023"],
    "rhel": ["9"],
    "rocky": ["9"],
    "almalinux": ["9"],
    "centos": ["9"],
    "ol": ["9"],
}
# As of 2026-11-22: what the wheels of vLLM 0.32 are built for.
MACHINES = ("x86_64", "aarch64")
# What the shipped lock of vLLM holds for (its "requires-python"), which is what installs it.
PYTHONS = ((3, 11), (3, 13))
# vLLM 0.32 says "Insufficient space in /dev/shm ... 160 MiB required".
SHM_BYTES = 160 * MIB
SHM = PurePosixPath("/dev", "shm")
# systemd gives a unit 15 % of what the host may have; vLLM with CUDA starts several hundred threads.
TASKS_SHARE = 0.15
TASKS_LEAST = 1000
INODES_LEAST = 1000
# Managers that only start a process: what that process can set for itself and those below it.
OWN_LIMITS = ("files", "memlock", "oom_score_adjust")
SHARED_UNITS = ("supervisor.service",)
WITHOUT_GROUPS = ("supervisor", "tmux", "screen")
# What vLLM reads weights from.
WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf")
TIME_DAEMONS = ("chronyd", "ntpd", "ntpsec", "openntpd", "systemd-timesyn", "phc2sys")


def root(_wanted: Wanted, seen: Seen) -> Iterator[Finding]:
    if seen["euid"] == 0:
        yield fine("root", "runs as root")
    else:
        yield error(
            "root",
            "installing packages, units and users takes root",
            f"runs as {seen['user']} (uid {seen['euid']})",
            "set become: true in the play, or run ansible-playbook with --become",
        )


def distribution(wanted: Wanted, seen: Seen) -> Iterator[Finding]:
    release = seen["os_release"]
    identity, version = release.get("ID", ""), release.get("VERSION_ID", "")
    supported: Mapping[str, Sequence[str]] = wanted["supported"] or SUPPORTED
    name = release.get("PRETTY_NAME") or f"{identity} {version}".strip() or "no /etc/os-release"
    if any(version == known or version.startswith(f"{known}.") for known in supported.get(identity, ())):
        yield fine("distribution", name)
        return
    known = ", ".join(f"{key} {'/'.join(versions)}" for key, versions in sorted(supported.items()))
    yield error(
        "distribution",
        "this distribution is not supported",
        f"{name} (ID={identity or '-'}, VERSION_ID={version or '-'})",
        f"use one of: {known}; or name this one in the variable that overrides the list, at your own risk",
    )


def machine(_wanted: Wanted, seen: Seen) -> Iterator[Finding]:
    if seen["machine"] in MACHINES:
        yield fine("machine", seen["machine"])
    else:
        yield error(
            "machine",
            "vLLM has no wheels for this processor",
            str(seen["machine"]),
            f"use a host with one of: {', '.join(MACHINES)}",
        )


def manager(wanted: Wanted, seen: Seen) -> Iterator[Finding]:
    if wanted["service_manager"] != "systemd":
        return
    if seen["systemd_runs"]:
        yield fine("service_manager", "systemd is running")
    else:
        yield error(
            "service_manager",
            "service_manager is systemd, which does not run on this host",
            f"process 1 is {seen['init']}; /run/systemd/system is not there",
            "boot the host (or container) with systemd as its first process, or set service_manager to another manager",
        )


def ports(wanted: Wanted, seen: Seen) -> Iterator[Finding]:
    """A port is free, or held by what this run may restart: the instance's own unit or run, or another of ours."""
    for instance in wanted["instances"]:
        check = f"port[{instance['name']}]"
        held = [
            listener
            for listener in seen["listeners"]
            if listener["port"] == instance["port"] and _meet(listener["address"], instance["host"])
        ]
        foreign = [listener for listener in held if not _ours(listener, instance, seen)]
        if foreign:
            yield error(
                check,
                f"port {instance['port']} is taken by another program",
                "; ".join(_owner(listener) for listener in foreign),
                f"stop that program, or give instance {instance['name']} another port",
            )
        elif held:
            yield fine(check, f"port {instance['port']} is held by {held[0]['run'] or held[0]['unit']}")
        else:
            yield fine(check, f"port {instance['port']} is free")


def _ours(listener: Mapping[str, t.Any], instance: Mapping[str, t.Any], seen: Seen) -> bool:
    """A unit that we wrote for an instance now gone or renamed gives its port back in this run, as one's own run does.

    A daemon that runs several programs does not tell whose a listener is; the keeper's runner does.
    """
    if listener["run"] is not None:
        return True
    if listener["command"] == "docker-proxy":
        # Docker's own process listens for a container, and no other container of its gets the same port.
        return any(path.startswith("/etc/vllm/compose/") for path in seen["our_files"])
    return listener["unit"] in {instance["unit"], *seen["our_units"]} - {None, *SHARED_UNITS}


def _meet(listening: str, wanted: str) -> bool:
    """Whether two sockets of one port would get into each other's way; a name might be any address."""
    try:
        pair = [ipaddress.ip_address(address) for address in (listening, wanted)]
    except ValueError:
        return True
    return pair[0] == pair[1] or any(address.is_unspecified for address in pair)


def _owner(listener: Mapping[str, t.Any]) -> str:
    """Who listens; never the arguments of a process, which may hold secrets."""
    where = f"{listener['address']} port {listener['port']}"
    if listener["pid"] is None:
        return f"{where}: a process that cannot be seen from here"
    unit = f", unit {listener['unit']}" if listener["unit"] else ""
    return f"{where}: {listener['command']} (pid {listener['pid']}, user {listener['user']}{unit})"


def models(wanted: Wanted, seen: Seen) -> Iterator[Finding]:
    """Models that are paths; those of the hub are fetched later, and their space is asked for under disk."""
    for instance in wanted["instances"]:
        if instance["model_source"] != "path":
            continue
        path, check = instance["model_path"], f"model[{instance['name']}]"
        model = seen["models"][path]
        problem = _model_problem(path, model, seen["service_user"])
        if problem:
            yield error(check, *problem)
        else:
            yield fine(check, f"{path}: {len(model['weights'])} weight files, {human(model['bytes'])}")


def _model_problem(path: str, model: Mapping[str, t.Any], user: str) -> tuple[str, str, str] | None:
    """(cause, evidence, fix) of the first thing that vLLM would fail at."""
    copy = f"copy the whole model to {path}, or correct the instance's model"
    first = {
        "missing": ("the model's folder is not there", f"{path}; nearest existing folder: {model['nearest']}", copy),
        "file": ("the model is a file, not a folder", path, "write the path of the folder that holds config.json"),
    }.get(model["kind"])
    if first:
        return first
    if model["unreadable"]:
        return (
            f"user {user} cannot read the model",
            f"{', '.join(model['unreadable'][:5])}{' and more' if len(model['unreadable']) > 5 else ''}",
            f"let others read: chmod -R o+rX {path}, and chmod o+x each folder above it; or put the model under /srv",
        )
    if model["config"] != "ok":
        why = "has no config.json" if model["config"] == "missing" else "has a config.json that cannot be read"
        return (f"the model's folder {why}", f"{path}/config.json: {model['config']}", copy)
    if not model["weights"]:
        return ("the model's folder has no weights", f"{path} has no file *{', *'.join(WEIGHTS)}", copy)
    if model["absent"]:
        some = ", ".join(model["absent"][:3]) + (" and more" if len(model["absent"]) > 3 else "")
        return (
            f"{len(model['absent'])} weight files that its index names are not there",
            f"{path}: {some}",
            f"finish the copy: {copy}",
        )
    return None


def disk(wanted: Wanted, seen: Seen) -> Iterator[Finding]:
    """What is wanted from one filesystem is added up: each alone may fit where all together do not."""
    groups: dict[object, list[Mapping[str, t.Any]]] = defaultdict(list)
    for need in wanted["disk"]:
        if not (need.get("unless") and need["unless"] in seen["existing"]):
            groups[seen["disks"][need["path"]]["device"]].append(need)
    for needs in groups.values():
        spot = seen["disks"][needs[0]["path"]]
        total = sum(need["need_bytes"] for need in needs)
        paths = ", ".join(dict.fromkeys(need["path"] for need in needs))
        what = ", ".join(f"{human(need['need_bytes'])} for {need.get('for') or need['path']}" for need in needs)
        check = f"disk[{paths}]"
        evidence = f"{human(spot['free'])} of {human(spot['total'])} free on {spot['nearest']}"
        if spot["read_only"]:
            yield error(
                check, "the filesystem is read-only", spot["nearest"], "mount it writable, or choose another path"
            )
        elif total > spot["free"]:
            yield error(
                check,
                f"{human(total)} wanted ({what}), {human(total - spot['free'])} more than is free",
                evidence,
                "free or add space there, or choose another path",
            )
        elif spot["files"] and spot["files_free"] < INODES_LEAST:
            yield error(
                check,
                "the filesystem has no room for more files",
                f"{spot['files_free']} of {spot['files']} inodes free on {spot['nearest']}",
                "remove files that are not needed (df -i shows the count), or choose another path",
            )
        else:
            yield fine(check, f"{evidence}, {human(total)} wanted")


def python(wanted: Wanted, seen: Seen) -> Iterator[Finding]:
    path, version = wanted["python"], seen["python"]
    if not path:
        return
    least, most = (".".join(map(str, bound)) for bound in PYTHONS)
    fix = f"set vllm_python to a Python from {least} to {most}, or leave it to uv to fetch one"
    if version is None:
        yield error("python", "the Python for vLLM's environment does not run", f"{path}: {seen['python_error']}", fix)
    elif not PYTHONS[0] <= tuple(version[:2]) <= PYTHONS[1]:
        yield error(
            "python",
            f"vLLM's lock holds for Python {least} to {most}",
            f"{path} is {'.'.join(map(str, version))}",
            fix,
        )
    else:
        yield fine("python", f"{path} is {'.'.join(map(str, version))}")


def shm(wanted: Wanted, seen: Seen) -> Iterator[Finding]:
    least, total = wanted["shm_bytes"], seen["shm_total"]
    fix = f"mount a tmpfs of 1 GiB or more at {SHM}; for a container: --shm-size=1g"
    if total is None:
        yield error("shm", f"vLLM's processes talk through {SHM}, which is not there", f"{SHM}: missing", fix)
    elif total < least:
        yield error("shm", f"{SHM} is too small: vLLM wants {human(least)}", f"{human(total)} in all", fix)
    else:
        yield fine("shm", f"{SHM} holds {human(total)}")


def enforced(wanted: Wanted, _seen: Seen) -> Iterator[Finding]:
    """A limit that nobody would enforce is no limit, and whoever wrote it relies on it."""
    manager_ = wanted["service_manager"]
    if manager_ not in WITHOUT_GROUPS:
        return
    for place, instance in enumerate(wanted["instances"]):
        for name in instance.get("limits") or ():
            if name not in OWN_LIMITS:
                yield error(
                    f"vllm_instances[{place}].limits.{name}",
                    f"{manager_} cannot enforce this limit",
                    f"instance {instance['name']} under service_manager {manager_}",
                    "use systemd or compose, or leave the limit out",
                )


def limits(wanted: Wanted, seen: Seen) -> Iterator[Finding]:
    """A unit whose limit is above what the kernel gives does not start at all."""
    ceiling = seen["files_max"]
    for instance in wanted["instances"]:
        files = instance.get("files")
        if files is None or ceiling is None:
            continue
        check = f"limits[{instance['name']}]"
        if files > ceiling:
            yield error(
                check,
                f"limits.files of {files} is more than this host gives",
                f"process 1 may open {ceiling} files",
                f"lower limits.files to {ceiling} or less, or raise fs.nr_open (in a container: --ulimit nofile)",
            )
        else:
            yield fine(check, f"limits.files {files} of {ceiling}")
    tasks = seen["tasks_max"]
    if tasks is not None and wanted["service_manager"] == "systemd":
        share = int(tasks * TASKS_SHARE)
        if share < TASKS_LEAST:
            yield warning(
                "tasks",
                f"systemd gives a unit {share} threads, and vLLM may want {TASKS_LEAST}",
                f"the host has {tasks} in all",
                "set limits.tasks of the instances, or raise the host's own limit (for a container: --pids-limit=-1)",
            )
        else:
            yield fine("tasks", f"{tasks} threads in all")


def units(wanted: Wanted, seen: Seen) -> Iterator[Finding]:
    """A unit of an instance's name that we did not write is somebody's service."""
    if wanted["service_manager"] != "systemd":
        return
    for instance in wanted["instances"]:
        check = f"unit[{instance['name']}]"
        foreign = [path for path in seen["unit_files"].get(instance["unit"], ()) if path not in seen["our_files"]]
        if foreign:
            yield error(
                check,
                f"a unit {instance['unit']} is there already, and this collection did not write it",
                ", ".join(foreign),
                "give the instance another name; or, if that unit is to be replaced, disable it and remove its file",
            )
        else:
            yield fine(check, f"{instance['unit']} is free or ours")


def clock(_wanted: Wanted, seen: Seen) -> Iterator[Finding]:
    """Logs of several hosts, TLS and signed requests to AWS all want the same time."""
    if seen["container"]:
        yield fine("time", "a container has its host's clock")
    elif seen["time_daemons"]:
        yield fine("time", f"{', '.join(seen['time_daemons'])} runs")
    else:
        yield warning(
            "time",
            "nothing seems to keep this host's clock right",
            f"none of these runs: {', '.join(TIME_DAEMONS)}",
            "install chrony, or enable systemd-timesyncd",
        )


HOST: tuple[Check, ...] = (
    root, distribution, machine, manager, units, ports, models, disk, python, shm, enforced, limits, clock,
)  # fmt: skip
# The second is for when driver and models have come.
STAGES: dict[str, tuple[Check, ...]] = {"host": (*HOST, *_gpu_checks.CHECKS), "gpu": _gpu_checks.CHECKS}


def judge(stage: str, wanted: Wanted, seen: Seen) -> list[Finding]:
    """All findings of a stage, in the order of its checks."""
    return [finding for check in STAGES[stage] for finding in check(wanted, seen)]


def plan(instances: Sequence[Mapping[str, t.Any]]) -> list[dict[str, t.Any]]:
    """What the module needs to know of normalised instances: nothing secret, so that all of it may be logged."""
    keys = ("name", "port", "host", "unit", "model", "model_source", "model_path", "gpus")
    return [
        {
            **{key: item[key] for key in keys},
            "files": item["limits"]["files"],
            "start_timeout": item["start_timeout"],
            "compiling": _start_checks.environment({**item["environment"], **item["env"]}),
            "arguments": _gpu_plan.arguments(item["serve"]),
            "limits": [name for name, value in item["limits"].items() if value not in (None, "infinity")],
        }
        for item in instances
    ]
