# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A normalised instance as a Compose project (private to this collection). Pure, standard library only.

Source: the Compose specification, and what Compose 2.26 (Debian 13) takes of it.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

DIRECTORY = "/etc/vllm/compose"
GPUS = ("cdi", "reservation", "devices", "none")
# A folder that every image has and anybody may write to, so that the volume on it takes over those rights.
HOME = str(PurePosixPath("/var", "tmp"))
SCRATCH = str(PurePosixPath("/", "tmp"))
# Device nodes that a CUDA program opens beside those of its GPUs.
CONTROL_NODES = ("/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools")
OPTIONS = ("image", "user", "gpus", "health", "shm_size", "restart", "log_driver", "path", "volumes", "extra")
HEALTH = {"path": "/health", "interval": 30, "timeout": 10, "retries": 3, "start_period": 180}
PIN = re.compile(r"[^@\s]+@sha256:[0-9a-f]{64}")


def problems(instances: Sequence[Mapping[str, Any]], options: Mapping[str, Any]) -> list[str]:
    """What Compose cannot carry, one line each with its place."""
    found = [f"{key}: unknown option; known are {', '.join(OPTIONS)}" for key in options if key not in OPTIONS]
    if options.get("gpus") not in GPUS:
        found.append(f"service_compose_gpus: {options.get('gpus')!r} is none of {', '.join(GPUS)}")
    unknown = sorted(set(options.get("health") or {}) - set(HEALTH))
    found += [f"service_compose_health.{key}: unknown key; known are {', '.join(HEALTH)}" for key in unknown]
    for number, instance in enumerate(instances):
        found += [f"vllm_instances[{number}].{text}" for text in _instance_problems(instance, options)]
    return found


def _instance_problems(instance: Mapping[str, Any], options: Mapping[str, Any]) -> Iterator[str]:
    if len(instance["name"]) < 2:
        yield f"name: {instance['name']!r} is too short for a container: write at least two characters"
    try:
        ipaddress.ip_address(instance["host"])
    except ValueError:
        yield (
            f"host: {instance['host']!r} is a name, and Docker publishes ports on addresses alone: write an IP "
            "address, such as 0.0.0.0 for all"
        )
    if options.get("gpus") == "devices":
        chosen = instance["gpus"]
        if chosen is None or not all(isinstance(gpu, int) for gpu in chosen):
            yield (
                f"gpus: {chosen!r} does not say which device nodes to hand in (service_compose_gpus is devices): "
                "write a list of indices, such as [0, 1]"
            )


def image_problem(image: str, variable: str) -> str:
    """Why this image of somebody else is not taken; "" when it is."""
    if PIN.fullmatch(image):
        return ""
    return (
        f"{variable}: {image!r} is not pinned, and a tag can point at another image tomorrow. Write "
        "name:tag@sha256:<64 digits>; `docker buildx imagetools inspect name:tag` shows the digest"
    )


def project(instance: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """The Compose file of one instance, as data. Only for what has no problems."""
    service: dict[str, Any] = {
        "image": options["image"],
        "pull_policy": "never",
        "container_name": instance["name"],
        "init": True,
        "entrypoint": ["vllm", "serve"],
        "command": command(instance),
        "user": options["user"],
        "working_dir": HOME,
        "environment": environment(instance, options),
        "ports": [publication(instance)],
        "volumes": volumes(instance, options),
        # exec, because triton loads what it has just compiled
        "tmpfs": [f"{SCRATCH}:mode=1777,exec"],
        "shm_size": options["shm_size"],
        "read_only": True,
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "healthcheck": healthcheck(instance, options.get("health") or {}),
        "restart": options["restart"],
        "stop_signal": "SIGTERM",
        "stop_grace_period": f"{instance['timeouts']['unit_stop']}s",
        "logging": {
            "driver": options["log_driver"],
            "options": {
                "max-size": bytes_of(instance["logs"]["size"], "Docker's log size"),
                "max-file": str(instance["logs"]["count"]),
            },
        },
        **limits(instance["limits"]),
        **gpu_access(instance["gpus"], options["gpus"]),
    }
    merged = merge(service, options.get("extra") or {})
    return {
        "name": instance["name"],
        "services": {instance["name"]: merged},
        "volumes": {"cache": {}},
    }


def secrets(instance: Mapping[str, Any]) -> dict[str, Any]:
    """The second Compose file, with the secret variables alone.

    A Compose file and not an env_file: Compose 2.26 expands dollars in an env_file, reads its quotes in a grammar of
    its own that no spelling gets a value with both kinds through, and only later versions can be told to leave it.
    """
    return {
        "services": {
            instance["name"]: {"environment": {name: literal(value) for name, value in instance["secrets"].items()}}
        }
    }


def literal(value: Any) -> Any:
    """A value that Compose leaves as it is: each dollar doubled, in every text that it holds."""
    if isinstance(value, str):
        return value.replace("$", "$$")
    if isinstance(value, Mapping):
        return {key: literal(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [literal(item) for item in value]
    return value


def command(instance: Mapping[str, Any]) -> list[str]:
    """In its own network a container listens at all its addresses; where it is reached from, the port binding says."""
    six = ipaddress.ip_address(instance["host"]).version == 6
    everywhere = ipaddress.IPv6Address(0) if six else ipaddress.IPv4Address(0)
    return ["--config", instance["config_file"], "--host", str(everywhere)]


def publication(instance: Mapping[str, Any]) -> dict[str, Any]:
    """The port binding."""
    return {
        "target": instance["port"],
        "published": str(instance["port"]),
        "host_ip": instance["host"],
        "protocol": "tcp",
    }


def environment(instance: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, str]:
    """Variables without secrets."""
    variables = dict(instance["environment"])
    if options["gpus"] != "none":
        # Only its own GPUs are in the container, and there they are counted from 0.
        variables.pop("CUDA_VISIBLE_DEVICES", None)
    # The user may have no entry in the image's /etc/passwd, and libraries ask for its name and home.
    own = {"HOME": HOME, "USER": "vllm", "LOGNAME": "vllm"}
    return {**variables, **{name: value for name, value in own.items() if name not in instance["env"]}}


def volumes(instance: Mapping[str, Any], options: Mapping[str, Any]) -> list[Any]:
    """Model and settings read-only; a volume of its own for what is compiled once and kept."""
    read_only = [instance["config_file"], instance["model_path"]]
    binds = [
        {"type": "bind", "source": path, "target": path, "read_only": True, "bind": {"create_host_path": False}}
        for path in read_only
    ]
    return [*binds, {"type": "volume", "source": "cache", "target": HOME}, *(options.get("volumes") or [])]


def healthcheck(instance: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Python and not curl: every image that runs vLLM has it. http.client, because a proxy must not be asked."""
    chosen = {**HEALTH, **settings}
    asked = "::1" if ipaddress.ip_address(instance["host"]).version == 6 else "127.0.0.1"
    program = (
        "import http.client, sys; "
        f"c = http.client.HTTPConnection({asked!r}, {instance['port']}, timeout={chosen['timeout']}); "
        f"c.request('GET', {chosen['path']!r}); sys.exit(c.getresponse().status != 200)"
    )
    return {
        "test": ["CMD", "python3", "-c", program],
        "interval": f"{chosen['interval']}s",
        "timeout": f"{chosen['timeout']}s",
        "retries": chosen["retries"],
        "start_period": f"{chosen['start_period']}s",
    }


def limits(given: Mapping[str, Any]) -> dict[str, Any]:
    """An instance's limits in Compose's words."""
    found: dict[str, Any] = {}
    if given.get("memory") not in (None, "infinity"):
        found["mem_limit"] = bytes_of(given["memory"], "memory")
        # Without a word about swap Docker gives as much again.
        found["memswap_limit"] = found["mem_limit"]
    if given.get("cpu") is not None:
        found["cpus"] = int(str(given["cpu"]).rstrip("%")) / 100
    if given.get("tasks") is not None:
        found["pids_limit"] = -1 if given["tasks"] == "infinity" else given["tasks"]
    if given.get("oom_score_adjust") is not None:
        found["oom_score_adj"] = given["oom_score_adjust"]
    if given.get("io_weight") is not None:
        found["blkio_config"] = {"weight": block_weight(given["io_weight"])}
    ulimits: dict[str, Any] = {}
    if given.get("files") is not None:
        ulimits["nofile"] = given["files"]
    if given.get("memlock") is not None:
        ulimits["memlock"] = -1 if given["memlock"] == "infinity" else int(bytes_of(given["memlock"], "memlock"))
    return {**found, **({"ulimits": ulimits} if ulimits else {})}


def block_weight(weight: int) -> int:
    """systemd's IOWeight (1 to 10000, 100 where nothing is said) as Docker's (10 to 1000, likewise)."""
    return max(10, min(1000, weight))


def bytes_of(text: str, what: str) -> str:
    """Sizes in bytes: K, M and G are each 1024 of the last in an instance, and 1000 in Docker's log options."""
    found = re.fullmatch(r"([0-9]+)([KMGT]?)", str(text))
    if not found:
        raise ValueError(f"{what}: {text!r} is not a size")
    return str(int(found[1]) * 1024 ** " KMGT".index(found[2] or " "))


def gpu_access(gpus: Sequence[int | str] | None, how: str) -> dict[str, Any]:
    """How the container gets its GPUs (None: all of them)."""
    if how == "none" or gpus == []:
        return {}
    names = ["all"] if gpus is None else [str(gpu) for gpu in gpus]
    if how == "cdi":
        reserved: dict[str, Any] = {"driver": "cdi", "device_ids": [f"nvidia.com/gpu={name}" for name in names]}
    else:
        reserved = {"driver": "nvidia", **({"count": "all"} if gpus is None else {"device_ids": names})}
    reserved["capabilities"] = ["gpu"]
    found: dict[str, Any] = {"deploy": {"resources": {"reservations": {"devices": [reserved]}}}}
    if how == "devices":
        # Docker knows these itself, so they are still allowed after systemd has written the device rules anew.
        nodes = [*CONTROL_NODES, *(f"/dev/nvidia{name}" for name in names)]
        found["devices"] = [f"{node}:{node}" for node in nodes]
    return found


def merge(base: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    """Own keys of a service over ours: maps key by key, everything else in place of ours."""
    merged = dict(base)
    for key, value in extra.items():
        ours = merged.get(key)
        merged[key] = merge(ours, value) if isinstance(ours, Mapping) and isinstance(value, Mapping) else value
    return merged


def files(
    instances: Sequence[Mapping[str, Any]], options: Mapping[str, Any], retire: Callable[[str], list[str]]
) -> list[dict[str, Any]]:
    """Entries for managed_files. RETIRE: the command that ends an instance. Raises ValueError with every problem."""
    found = problems(instances, options)
    if found:
        raise ValueError("\n".join(found))
    entries: list[dict[str, Any]] = [{"path": DIRECTORY, "state": "directory"}] if instances else []
    for instance in instances:
        name = instance["name"]
        folder = f"{DIRECTORY}/{name}"
        entries += [
            {"path": folder, "state": "directory"},
            {
                "path": f"{folder}/compose.yaml",
                "template": "compose.yaml.j2",
                "vars": {"instance": instance, "project": literal(project(instance, options))},
                "validate": "docker compose -f %s config --quiet",
                "validate_as": "compose.yaml",
                "owes": [name],
                "before_remove": retire(name),
            },
            {
                # Compose reads a file of this name beside the first one by itself.
                "path": f"{folder}/compose.override.yaml",
                "template": "compose.override.yaml.j2",
                "vars": {"instance": instance, "project": secrets(instance)},
                "mode": "0600",
                "secret": True,
                "owes": [name],
            },
        ]
    return entries
