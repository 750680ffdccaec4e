# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What each key of an instance may hold (private to this collection). Pure, standard library only."""

from __future__ import annotations

import ipaddress
import re
import typing as t

from ansible_collections.steadfast.vllm.plugins.module_utils._values import (
    Reader,
    Wrong,
    boolean,
    choice,
    defined,
    encodes,
    fraction,
    integer,
    kind,
    printable,
    show,
    size,
    unknown,
)

# Names of units that a host has or may get: an instance of that name would take their place.
# fmt: off
TAKEN_NAMES = frozenset(
    (
        "acpid", "apparmor", "auditd", "caddy", "chrony", "chronyd", "cloud-config", "cloud-final", "cloud-init",
        "collectd", "console-setup", "containerd", "cron", "crond", "dbus", "dbus-broker", "dm-event", "docker",
        "emergency", "fail2ban", "firewalld", "getty", "gpm", "grafana-server", "halt", "haproxy",
        "initrd-switch-root", "iptables", "irqbalance", "iscsid", "keepalived", "kmod", "kubelet", "lvm2-monitor",
        "multipathd", "mysql", "mysqld", "network", "networking", "nftables", "nginx", "ntp", "ntpd", "ntpsec",
        "podman", "polkit", "postfix", "postgresql", "poweroff", "procps", "prometheus", "quotaon", "rc-local",
        "reboot", "redis", "redis-server", "rescue", "resolvconf", "rpcbind", "rsync", "rsyslog", "salt-minion",
        "screen", "serial-getty", "snapd", "ssh", "sshd", "sssd", "sudo", "supervisor", "supervisord", "syslog",
        "tmux", "udev", "ufw", "unattended-upgrades", "vllm-keeper",
    )
)
# fmt: on
TAKEN_PREFIXES = ("amazon-", "dbus-", "google-", "ifup-", "nfs-", "nvidia-", "rpc-", "snap-", "systemd-", "vllm-keeper")


def name(value: object) -> str:
    """The instance's name is also the unit's, the program's, the container's and the session's."""
    fix = "write 1 to 41 small letters, digits and dashes, a letter first, such as qwen3vl"
    value = defined(value)
    if not isinstance(value, str):
        raise Wrong(f"{show(value)} is {kind(value)}, not a name: {fix}")
    if not re.fullmatch(r"[a-z][a-z0-9-]{0,40}", value):
        raise Wrong(f"{show(value)} cannot be the name of a unit and a container: {fix}")
    if value in TAKEN_NAMES or value.startswith(TAKEN_PREFIXES):
        raise Wrong(f"{show(value)} is the name of a system service: choose another, such as model-{value[:30]}")
    return value


def model(value: object) -> str:
    """An absolute path on the host, or an id on the Hugging Face hub."""
    fix = "write an absolute path on the host, such as /srv/models/mine, or a hub id, such as Qwen/Qwen3-VL-8B-Instruct"
    value = defined(value)
    if not isinstance(value, str):
        raise Wrong(f"{show(value)} is {kind(value)}, not a model: {fix}")
    if value.startswith("/"):
        path = re.sub(r"/+", "/", value).rstrip("/")
        if not path or not printable(path) or {".", ".."} & set(path.split("/")):
            raise Wrong(f"{show(value)} is not the plain path of a folder: {fix}")
        return path
    if value.startswith((".", "~")):
        raise Wrong(f"{show(value)} is a relative path, and a service has no folder to start from: {fix}")
    if "://" in value:
        raise Wrong(f"{show(value)} is an address, which is not fetched at start: {fix}")
    part = r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9_])?"
    # "--" and ".." are the hub's own rule; without them <org>--<name> cannot mean two models.
    if not re.fullmatch(f"{part}/{part}", value) or "--" in value or ".." in value or len(value) > 96:
        raise Wrong(f"{show(value)} is neither a path nor a hub id (organisation/name): {fix}")
    return value


def revision(value: object) -> str:
    """A commit, tag or branch on the hub; also the last part of the model's folder."""
    fix = "write a commit, tag or branch of the hub in quotes, such as '0c351dd01ed87e9c1b53cbc748cba10e6187ff3b'"
    value = defined(value)
    if not isinstance(value, str):
        raise Wrong(f"{show(value)} is {kind(value)}, not a revision: {fix}")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*", value) or len(value) > 200:
        raise Wrong(f"{show(value)} is not a revision: {fix}")
    return value


def served_model_name(value: object) -> str:
    """The name that clients ask for."""
    fix = "write one line of text, such as qwen3vl"
    value = defined(value)
    if not isinstance(value, str):
        raise Wrong(f"{show(value)} is {kind(value)}, not a name: {fix}")
    if not value.strip() or not printable(value) or value.startswith("-"):
        raise Wrong(f"{show(value)} is empty, starts with a dash or does not fit on a line: {fix}")
    return value


def host(value: object) -> str:
    """The address to listen at."""
    fix = "write an IP address or a host name, such as 0.0.0.0 for all addresses or 127.0.0.1 for this host alone"
    value = defined(value)
    if not isinstance(value, str):
        raise Wrong(f"{show(value)} is {kind(value)}, not an address: {fix}")
    text = value[1:-1] if value.startswith("[") and value.endswith("]") else value
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        label = r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
        looks_numeric = re.fullmatch(r"[0-9.]+", value)
        if value != text or looks_numeric or len(value) > 253 or not re.fullmatch(rf"{label}(\.{label})*", value):
            raise Wrong(f"{show(value)} is not an address: {fix}") from None
        return value


def port(value: object) -> int:
    """A TCP port that a service without root may bind."""
    try:
        integer(1, 1023, "a port", 80)(value)
    except Wrong:
        return t.cast("int", integer(1024, 65535, "a port", 8000)(value))
    raise Wrong(f"{show(value)} is a port that only root may bind: write one from 1024 up, such as 8000")


def gpus(value: object) -> list[int | str]:
    """Indices as nvidia-smi counts them, or the identifiers of GPUs or MIG slices; an empty list is no GPU."""
    fix = "write a list of indices, such as [0, 1], of identifiers (GPU-..., MIG-...), or [] for none"
    value = defined(value)
    if not isinstance(value, list):
        raise Wrong(f"{show(value)} is {kind(value)}, not a list: {fix}")
    chosen: list[int | str] = []
    for item in value:
        index = item
        if isinstance(item, str) and re.fullmatch(r"[0-9]{1,3}", item):
            index = int(item)
        if isinstance(index, bool) or not (
            (isinstance(index, int) and 0 <= index < 1000)
            or (isinstance(index, str) and re.fullmatch(r"(GPU|MIG)-[A-Za-z0-9/-]{1,80}", index))
        ):
            raise Wrong(f"{show(item)} is not a GPU: {fix}")
        if index in chosen:
            raise Wrong(f"{show(item)} stands twice: {fix}")
        chosen.append(index)
    if len({type(item) for item in chosen}) > 1:
        raise Wrong(f"indices and identifiers together, of which CUDA reads only the first kind: {fix}")
    return chosen


def api_key(value: object) -> str:
    """Secret: nothing of it in a message."""
    fix = "write a string from the vault, one line, or leave the key out"
    value = defined(value)
    if not isinstance(value, str):
        raise Wrong(f"(not shown) is {kind(value)}, not a string: {fix}")
    if not value or not printable(value) or not value.isascii() or value != value.strip():
        raise Wrong(f"(not shown) is empty, or has spaces around it or a character no HTTP header holds: {fix}")
    return value


class Field(t.NamedTuple):
    """One key: how it is read and what it is when not given."""

    read: Reader
    default: t.Any = None


class Map(t.NamedTuple):
    """A key that holds a dictionary: how its keys and its values are read, and an example of both."""

    name: t.Callable[[object], str]
    read: t.Callable[[str, object], t.Any]
    example: str


def cpu(value: object) -> str:
    """Whole or part CPUs as a number (4, 1.5), or as systemd says it ("400%")."""
    fix = "write a number of CPUs, such as 4, or a share of one, such as '400%'"
    value = defined(value)
    share: float | None = None
    if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 10**6:  # false for nan
        share = float(value) * 100
    elif isinstance(value, str) and re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,3})?%?", value):
        share = float(value[:-1]) if value.endswith("%") else float(value) * 100
    if share is None:
        raise Wrong(f"{show(value)} is not a number of CPUs: {fix}")
    if not 1 <= round(share) <= 409600:
        raise Wrong(f"{show(value)} is out of range for CPUs (0.01 to 4096): {fix}")
    return f"{round(share)}%"


def tasks(value: object) -> int | str:
    """How many processes and threads."""
    return "infinity" if value == "infinity" else t.cast("int", integer(64, 4194304, "a number of tasks", 8192)(value))


LIMITS: dict[str, Reader] = {
    "memory": size("an amount of memory", "16G", 64 * 2**20, unlimited=True),
    "cpu": cpu,
    "tasks": tasks,
    "files": integer(1024, 2**30, "a number of open files", 65536),
    "memlock": size("an amount of locked memory", "infinity", 0, unlimited=True),
    "io_weight": integer(1, 10000, "a weight", 100),
    "oom_score_adjust": integer(-1000, 1000, "an adjustment", -500),
}
LOGS: dict[str, Reader] = {
    "size": size("the size of a log file", "50M", 2**20),
    "count": integer(1, 1000, "a number of log files", 10),
}


def _one_of(readers: t.Mapping[str, Reader]) -> t.Callable[[object], str]:
    def read(key: object) -> str:
        if not isinstance(key, str) or key not in readers:
            raise Wrong(unknown(key, readers))
        return key

    return read


# Options of `vllm serve` that the collection writes, and the key that sets each.
OWNED_ARGS = {
    "model": "write it as the instance's model",
    "model-tag": "write it as the instance's model",
    "revision": "write it as the instance's revision",
    "served-model-name": "write it as the instance's served_model_name",
    "host": "write it as the instance's host",
    "port": "write it as the instance's port",
    "tensor-parallel-size": "write it as the instance's tensor_parallel_size",
    "max-model-len": "write it as the instance's max_model_len",
    "gpu-memory-utilization": "write it as the instance's gpu_memory_utilization",
    "shutdown-timeout": "write it as the instance's drain_timeout",
    "api-key": "write it as the instance's api_key, which is kept out of files that others may read",
    "hf-token": "write it as HF_TOKEN in the instance's env, which is kept out of files that others may read",
    "config": "write the options themselves in extra_args",
    "uds": "leave it out: health checks and the balancer need the port",
    "ssl-keyfile": "leave it out: health checks speak HTTP, and the balancer in front ends TLS",
    "ssl-certfile": "leave it out: health checks speak HTTP, and the balancer in front ends TLS",
    "ssl-ca-certs": "leave it out: health checks speak HTTP, and the balancer in front ends TLS",
}


def argument_name(key: object) -> str:
    """An option of `vllm serve`, dashed as in its config file; vLLM reads both spellings up to the first dot."""
    if not isinstance(key, str) or not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*(\.[A-Za-z0-9_.+-]+)?", key):
        raise Wrong("not the name of an option: write it as vllm serve has it, without the leading dashes")
    head, dot, rest = key.partition(".")
    option = head.replace("_", "-")
    for owned, fix in OWNED_ARGS.items():
        # argparse takes an abbreviation for the option, so one would slip past.
        if owned == option or (len(option) > 3 and owned.startswith(option)):
            raise Wrong(f"the collection sets --{owned}: {fix}")
    return option + dot + rest


def argument_value(_key: str, value: object) -> t.Any:
    """What YAML, vLLM and argparse all carry. Not shown: an extra argument may be private."""
    read = _json(value)
    for item in read if isinstance(read, list) else [read]:
        if isinstance(read, list) and (item is None or isinstance(item, (bool, list, dict))):
            raise Wrong("a list that holds more than texts and numbers, which vLLM cannot take apart: write it flat")
        if isinstance(item, str) and item.lower() in ("true", "false"):
            raise Wrong("a boolean in quotes, which vLLM takes for text: write it without quotes")
        # What starts with a dash argparse takes for an option, and with a dot in it vLLM does: -1 alone goes through.
        if isinstance(item, (str, int, float)) and re.match(r"-(?![0-9]+$)", str(item)):
            raise Wrong("starts with a dash, so vLLM takes it for an option: write a whole number, or leave it out")
    return read


def _json(value: object) -> t.Any:
    """Lists and dictionaries go to vLLM as JSON."""
    value = defined(value)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        if "\0" in value or not encodes(value):
            raise Wrong("text that no file can hold: remove what is not text")
        return value
    if isinstance(value, (int, float)):
        if not abs(value) < 10**18:  # nan too
            raise Wrong("a number that is too large for an option: write it smaller")
        return value
    if isinstance(value, list):
        return [_json(item) for item in value]
    if isinstance(value, dict):
        if not all(isinstance(key, str) and encodes(key) for key in value):
            raise Wrong("a dictionary whose keys are not all strings: write them in quotes")
        return {key: _json(item) for key, item in value.items()}
    raise Wrong(f"{kind(value)}: write a string, number, boolean, list or dictionary")


OWNED_ENV = {
    "CUDA_VISIBLE_DEVICES": "write the GPUs as the instance's gpus",
    "CUDA_DEVICE_ORDER": "leave it out: gpus are counted as nvidia-smi counts them",
    "VLLM_API_KEY": "write it as the instance's api_key",
}


def env_name(key: object) -> str:
    """The name of an environment variable."""
    if not isinstance(key, str) or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,127}", key):
        raise Wrong("not the name of an environment variable: write letters, digits and _, such as HF_TOKEN")
    if key in OWNED_ENV:
        raise Wrong(f"the collection sets it: {OWNED_ENV[key]}")
    return key


# Variables whose value the timeouts rest on.
ENV_SECONDS = ("VLLM_HTTP_TIMEOUT_KEEP_ALIVE", "VLLM_ENGINE_READY_TIMEOUT_S")


def env_value(key: str, value: object) -> str:
    """Secret: nothing of it in a message."""
    value = defined(value)
    if isinstance(value, bool):
        raise Wrong("(not shown) is a boolean, which programs read differently: write '1', '0' or the word, in quotes")
    if isinstance(value, (int, float)):
        value = str(value) if abs(value) < 10**18 else ""
    if not isinstance(value, str):
        raise Wrong(f"(not shown) is {kind(value)}, not a string: write one line of text in quotes")
    if not printable(value.replace("\t", " ")):
        raise Wrong("(not shown) has a line break or a control character: write one line of text")
    if key in ENV_SECONDS and not re.fullmatch(r"[1-9][0-9]{0,5}", value):
        raise Wrong("(not shown) is not a number of seconds: write a whole number, such as 75")
    return value


def _by_key(readers: t.Mapping[str, Reader]) -> t.Callable[[str, object], t.Any]:
    return lambda key, value: readers[key](value)


MAPS: dict[str, Map] = {
    "extra_args": Map(argument_name, argument_value, "options of vllm serve, such as {dtype: bfloat16}"),
    "env": Map(env_name, env_value, "variables, such as {HF_TOKEN: ...}"),
    "limits": Map(_one_of(LIMITS), _by_key(LIMITS), "limits, such as {memory: 64G, tasks: 8192}"),
    "logs": Map(_one_of(LOGS), _by_key(LOGS), "such as {size: 50M, count: 10}"),
}


def _map(_value: object) -> t.Any:
    raise AssertionError("dictionaries are read through MAPS")


# In the order in which messages and documentation list them.
FIELDS: dict[str, Field] = {
    "name": Field(name),
    "model": Field(model),
    "revision": Field(revision),
    "served_model_name": Field(served_model_name),
    "port": Field(port, 8000),
    "host": Field(host, str(ipaddress.IPv4Address(0))),  # all addresses: the balancer must reach it
    "gpus": Field(gpus),
    "tensor_parallel_size": Field(integer(1, 1024, "a number of GPUs", 1), 1),
    "max_model_len": Field(integer(1, 10**9, "a number of tokens", 1024), 1024),
    "gpu_memory_utilization": Field(fraction("a share of the GPU's memory", 0.95), 0.95),
    "extra_args": Field(_map, {}),
    "env": Field(_map, {}),
    "api_key": Field(api_key),
    "limits": Field(_map, dict.fromkeys(LIMITS)),
    "logs": Field(_map, {"size": "50M", "count": 10}),
    "start_timeout": Field(integer(10, 86400, "a number of seconds", 600), 600),
    "drain_timeout": Field(integer(0, 3600, "a number of seconds", 60), 60),
    "standby": Field(boolean, False),
    "ready_check": Field(choice("completion", "health"), "completion"),
}
REQUIRED = {
    "name": "write a name, such as qwen3vl",
    "model": "write a hub id, such as Qwen/Qwen3-VL-8B-Instruct, or an absolute path on the host",
}
