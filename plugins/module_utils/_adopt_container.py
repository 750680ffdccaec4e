# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A server's container, from what `docker inspect` and `podman inspect` say of it (private to this collection).

Pure, standard library only.
"""

from __future__ import annotations

import ipaddress
import re
import typing as t
from collections.abc import Iterator, Mapping

from ansible_collections.steadfast.vllm.plugins.module_utils import _adopt_launch
from ansible_collections.steadfast.vllm.plugins.module_utils._adopt_launch import Process

ANYWHERE = ("", str(ipaddress.IPv4Address(0)), "::")
# Networks that a container is in when nobody chose one.
USUAL_NETWORKS = ("", "default", "bridge", "podman", "host", "none", "pasta", "slirp4netns", "private")
# Programs that stay as long as the container whose output they show.
CLIENTS = ("docker", "podman")
ALL_GPUS = ("", "all", "void", "none")


def _part(told: Mapping[str, t.Any], name: str) -> Mapping[str, t.Any]:
    part = told.get(name)
    return part if isinstance(part, Mapping) else {}


def name(told: Mapping[str, t.Any]) -> str:
    """As people call it."""
    return str(told.get("Name") or "").lstrip("/")


def labels(told: Mapping[str, t.Any]) -> Mapping[str, t.Any]:
    return _part(_part(told, "Config"), "Labels")


def network(told: Mapping[str, t.Any]) -> str:
    return str(_part(told, "HostConfig").get("NetworkMode") or "")


def restart_policy(told: Mapping[str, t.Any]) -> str:
    """As --restart takes it; empty where it has none."""
    policy = _part(_part(told, "HostConfig"), "RestartPolicy")
    chosen = str(policy.get("Name") or "")
    if chosen == "on-failure" and policy.get("MaximumRetryCount"):
        return f"{chosen}:{policy['MaximumRetryCount']}"
    return "" if chosen == "no" else chosen


def removed_with_its_end(told: Mapping[str, t.Any]) -> bool:
    """docker run --rm"""
    return bool(_part(told, "HostConfig").get("AutoRemove"))


def published(told: Mapping[str, t.Any], port: int) -> list[tuple[str, int]]:
    """(address, port) on the host of a container's port; "" is any address, for IPv4 and IPv6 alike."""
    if network(told) == "host":
        return [("", port)]
    found = set()
    for binding in _part(_part(told, "NetworkSettings"), "Ports").get(f"{port}/tcp") or ():
        address, number = str(binding.get("HostIp") or ""), str(binding.get("HostPort", ""))
        if number.isdecimal():
            found.add(("" if address in ANYWHERE else address, int(number)))
    return sorted(found)


def hindrances(told: Mapping[str, t.Any]) -> Iterator[str]:
    """Why a container cannot be taken over."""
    marks = labels(told)
    unit = marks.get("PODMAN_SYSTEMD_UNIT")
    if unit:
        yield _by_unit(str(unit))
    service = marks.get("com.docker.swarm.service.name")
    if service:
        yield (
            f"its container is a task of the swarm service {service}, which would start it again: "
            f"docker service rm {service}, start the server by hand or not at all, and run this again"
        )
    if told.get("Pod"):
        yield (
            f"its container is part of the podman pod {str(told['Pod'])[:12]}, whose other containers would be without "
            "it: run it outside of the pod first"
        )
    elif network(told).startswith("container:"):
        yield (
            f"it is in the network of another container ({network(told)[:22]}), which would be without it: give it a "
            "network and a port of its own first"
        )


def notes(told: Mapping[str, t.Any]) -> Iterator[str]:
    """What will be different for those who reach the server in its container."""
    if removed_with_its_end(told):
        yield f"container {name(told)} was started with --rm: it is gone once it is stopped, with all that it wrote"
    if network(told) not in USUAL_NETWORKS and not network(told).startswith("container:"):
        yield (
            f"containers of the network {network(told)} that reach it as {name(told)} have to be given an address of "
            "this host: the service is in no network of containers"
        )
    if limited(told):
        yield (
            f"{', '.join(limited(told))} of container {name(told)}: not carried over; write what the service may use "
            "into limits"
        )
    project = labels(told).get("com.docker.compose.project")
    if project:
        where = labels(told).get("com.docker.compose.project.working_dir") or "its folder"
        yield (
            f"its container belongs to the Compose project {project}: take it out of the file in {where}, or the next "
            "docker compose up starts it again"
        )


def limited(told: Mapping[str, t.Any]) -> list[str]:
    """Options of `docker run` by which its share of the host was bounded."""
    host = _part(told, "HostConfig")
    bounds = (
        ("Memory", "--memory"),
        ("NanoCpus", "--cpus"),
        ("CpuQuota", "--cpu-quota"),
        ("CpusetCpus", "--cpuset-cpus"),
    )
    return [option for field, option in bounds if host.get(field)]


def _by_unit(unit: str) -> str:
    return (
        f"its container is run by the systemd unit {unit}, which would start it again: disable and stop that unit, and "
        "run this again"
    )


def clients(told: Mapping[str, t.Any], everyone: Mapping[int, Process]) -> list[Process]:
    """The `docker run` or `docker start -a` that stays with a container."""
    return [process for process in everyone.values() if _speaks_of(process, told)]


def _speaks_of(process: Process, told: Mapping[str, t.Any]) -> bool:
    words = process.argv[1:]
    if _adopt_launch.program(process) not in CLIENTS:
        return False
    if "compose" in words:
        # Which project's cannot be told from its command line.
        return "up" in words and "com.docker.compose.project" in labels(told)
    if not {"run", "start", "attach"} & set(words):
        return False
    named = [value for word, value in zip(words, words[1:]) if word == "--name"]
    named += [word.partition("=")[2] for word in words if word.startswith("--name=")]
    if "run" not in words:
        identity = str(told.get("Id") or "-")
        return any(
            word == name(told) or (re.fullmatch(r"[0-9a-f]{12,64}", word) and identity.startswith(word))
            for word in words
        )
    return name(told) in named if named else _nameless(process, told)


def _nameless(process: Process, told: Mapping[str, t.Any]) -> bool:
    """Whether a `run` without --name may be this container's: podman keeps the command, docker what came of it."""
    config = _part(told, "Config")
    created = config.get("CreateCommand")
    if created:
        return list(process.argv[1:]) == [str(word) for word in created[1:]]
    command = [str(word) for word in config.get("Cmd") or ()]
    words = process.argv[1:]
    # docker run -d leaves no client behind.
    return (
        config.get("AttachStdout") is not False
        and str(config.get("Image") or "-") in words
        and (not command or list(words[-len(command) :]) == command)
    )


def run_by(told: Mapping[str, t.Any], everyone: Mapping[int, Process]) -> tuple[list[str], tuple[int, ...]]:
    """(why it cannot be taken over, scripts that live for the container alone), from its clients."""
    problems: list[str] = []
    scripts: list[int] = []
    found = clients(told, everyone)
    # sudo docker run is two processes, and one start.
    above = {process.pid for client in found for process in _adopt_launch.ancestors(client.pid, everyone)}
    if len([client for client in found if client.pid not in above]) > 1:
        pids = ", ".join(str(client.pid) for client in found)
        problems.append(
            f"several commands may have started its container (pids {pids}) and cannot be told apart: start it with "
            "--name, or with -d"
        )
        found = []
    for client in found:
        chain = _adopt_launch.ancestors(client.pid, everyone)
        unit = _adopt_launch.unit_of(client.groups)
        guard = _adopt_launch.supervisor(chain)
        if unit:
            problems.append(_by_unit(unit[0]))
        elif guard:
            problems.append(
                f"its container is run under {guard}, which would start it again: take its program out of {guard} "
                "first, and run this again"
            )
        else:
            scripts += [process.pid for process in _adopt_launch.wrappers(chain)]
    return problems, tuple(scripts)


def gpus(told: Mapping[str, t.Any], environ: Mapping[str, str]) -> list[str] | None:
    """The host's GPUs that a container was given, as it names them; None where it has all, or none was chosen."""
    for request in _part(told, "HostConfig").get("DeviceRequests") or ():
        named = [str(item).rpartition("=")[2] for item in request.get("DeviceIDs") or ()]
        if named:
            return None if "all" in named else named
        if int(request.get("Count") or 0) > 0:
            return [str(number) for number in range(int(request["Count"]))]
    created = " ".join(map(str, _part(told, "Config").get("CreateCommand") or ()))
    chosen = re.findall(r"nvidia\.com/gpu=([\w:-]+)", created)
    if chosen:
        return None if "all" in chosen else chosen
    visible = environ.get("NVIDIA_VISIBLE_DEVICES", "")
    if str(_part(told, "HostConfig").get("Runtime") or "") == "nvidia" and visible not in ALL_GPUS:
        return [word.strip() for word in visible.split(",") if word.strip()]
    return None


def environ_outside(told: Mapping[str, t.Any], environ: Mapping[str, str]) -> dict[str, str]:
    """The variables as they would be without the container: its GPUs count from 0, whichever of the host's they are."""
    given = gpus(told, environ)
    if given is None:
        return dict(environ)
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return {**environ, "CUDA_VISIBLE_DEVICES": ",".join(given), "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    words = [word.strip() for word in visible.split(",")]
    outside = [given[int(word)] if word.isdecimal() and int(word) < len(given) else word for word in words]
    return {**environ, "CUDA_VISIBLE_DEVICES": ",".join(outside)}
