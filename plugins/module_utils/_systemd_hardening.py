# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the unit of an instance may not do (private to this collection). Pure, standard library only.

Source: systemd.exec(5), systemd.resource-control(5). What each switch is for and when to turn it off:
docs/hardening.md, which a test holds against SWITCHES.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ansible_collections.steadfast.vllm.plugins.module_utils._values import unknown

Pairs = list[tuple[str, str]]

# Groups of /proc/devices, so that every GPU, also one that is added later, and numbers given at load time are right.
# Not their nodes: DeviceAllow= has no wildcards for paths, and a node that is missing at start would stay forbidden.
GPU_DEVICES = (
    "char-nvidia",  # /dev/nvidia0 and on, /dev/nvidiactl (driver 550 and later)
    "char-nvidia-frontend",  # the same, older drivers
    "char-nvidiactl",  # CUDA's first door
    "char-nvidia-modeset",  # asked for by NVML and by video decoding
    "char-nvidia-uvm",  # unified memory: CUDA does not start without it
    "char-nvidia-caps",  # MIG slices
    "char-nvidia-caps-imex-channels",  # memory shared between hosts on one NVLink fabric
)
# Link-local addresses at which a cloud hands out a machine's credentials.
METADATA = ("169.254.169.254", "fd00:ec2::254")
_HOMES = re.compile(r"(?<![\w.-])/(?:home|root|run/user)(?![\w.-])")
_DEVICE = re.compile(r"(?:/dev/[\w./-]*\w|(?:char|block)-[\w.*?-]+)(?: [rwm]{1,3})?\Z")


class Setting(NamedTuple):
    """What the switches' directives depend on."""

    instance: Mapping[str, Any]
    home: str
    devices: Sequence[str]


Switch = Callable[[Setting, bool], Pairs]


def _plain(*pairs: tuple[str, str]) -> Switch:
    return lambda _setting, on: list(pairs) if on else []


def _file_system(setting: Setting, on: bool) -> Pairs:
    """Everything is read-only but the state folder, /dev/shm and the private /tmp. All caches are kept below HOME."""
    if not on:
        return []
    strict = [("ProtectSystem", "strict"), ("PrivateMounts", "yes")]
    before, _found, below = setting.home.partition("/var/lib/")
    if below and not before:
        return [*strict, ("StateDirectory", below), ("StateDirectoryMode", "0750")]
    return [*strict, ("ReadWritePaths", setting.home)]


def _home(setting: Setting, on: bool) -> Pairs:
    """Hidden; readable where the instance names something there, such as its model."""
    if not on:
        return []
    return [("ProtectHome", "read-only" if reads_homes(setting.instance) else "yes")]


def _private_tmp(_setting: Setting, on: bool) -> Pairs:
    # Without a private one, ProtectSystem=strict would leave no /tmp to write to.
    return [("PrivateTmp", "yes")] if on else [("ReadWritePaths", "-/tmp -/var/tmp")]


def _devices(setting: Setting, on: bool) -> Pairs:
    if not on:
        return []
    gpus = () if setting.instance.get("gpus") == [] else GPU_DEVICES
    # m, to make a node, is for nvidia-modprobe before the start: the service itself has not the capability.
    allowed = [f"{device} rwm" for device in gpus]
    allowed += [device if " " in device else f"{device} rw" for device in setting.devices]
    return [("DevicePolicy", "closed"), *(("DeviceAllow", device) for device in allowed)]


def _syscalls(_setting: Setting, on: bool) -> Pairs:
    # EPERM, so that a program can do without; by default systemd would kill it.
    allowed = [("SystemCallFilter", "@system-service"), ("SystemCallFilter", "~@privileged")]
    return [*allowed, ("SystemCallErrorNumber", "EPERM")] if on else []


SWITCHES: dict[str, Switch] = {
    "address_families": _plain(("RestrictAddressFamilies", "AF_UNIX AF_INET AF_INET6 AF_NETLINK")),
    "capabilities": _plain(("CapabilityBoundingSet", ""), ("AmbientCapabilities", "")),
    "clock": _plain(("ProtectClock", "yes")),
    "control_groups": _plain(("ProtectControlGroups", "yes")),
    "debug": lambda _setting, on: [],
    "devices": _devices,
    "file_system": _file_system,
    "home": _home,
    "hostname": _plain(("ProtectHostname", "yes")),
    "ipc": _plain(("RemoveIPC", "yes")),
    "kernel_logs": _plain(("ProtectKernelLogs", "yes")),
    "kernel_modules": _plain(("ProtectKernelModules", "yes")),
    "kernel_tunables": _plain(("ProtectKernelTunables", "yes")),
    "metadata": _plain(("IPAddressDeny", " ".join(METADATA))),
    "namespaces": _plain(("RestrictNamespaces", "yes")),
    "personality": _plain(("LockPersonality", "yes")),
    "private_tmp": _private_tmp,
    "private_users": _plain(("PrivateUsers", "yes")),
    "processes": _plain(("ProtectProc", "invisible")),
    "realtime": _plain(("RestrictRealtime", "yes")),
    "suid_sgid": _plain(("RestrictSUIDSGID", "yes")),
    "syscall_architectures": _plain(("SystemCallArchitectures", "native")),
    "syscalls": _syscalls,
    "umask": _plain(("UMask", "0077")),
}
PLACE = "service_hardening"


def directives(switches: object, instance: Mapping[str, Any], home: str, devices: object = ()) -> Pairs:
    """[(directive, value)] for the section Service; a switch that is not given is on.

    Raises ValueError with a line for each switch or device that cannot be used.
    """
    problems = [*_switch_problems(switches), *_device_problems(devices)]
    if problems:
        raise ValueError("\n".join(problems))
    given: Mapping[str, bool] = switches if isinstance(switches, Mapping) else {}
    listed = [str(device) for device in devices] if isinstance(devices, (list, tuple)) else []
    setting = Setting(instance, home, listed)
    pairs: Pairs = []
    for name, switch in SWITCHES.items():
        pairs += switch(setting, given.get(name, True))
    # ptrace and its kin: outside @system-service already, so that only lifting it needs a word.
    if not given.get("debug", True) and given.get("syscalls", True):
        pairs.append(("SystemCallFilter", "@debug"))
    return pairs


def reads_homes(instance: Mapping[str, Any]) -> bool:
    """Whether an instance names a path in a home folder, in whatever key."""
    return any(_HOMES.search(text) for key in ("serve", "environment", "secrets") for text in _texts(instance.get(key)))


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _texts(key)
            yield from _texts(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _texts(item)


def _switch_problems(switches: object) -> Iterator[str]:
    if switches is None:
        return
    if not isinstance(switches, Mapping):
        yield f"{PLACE}: {switches!r} is not a dictionary: write switches, such as {{private_users: false}}"
        return
    for key, value in switches.items():
        if key not in SWITCHES:
            yield f"{PLACE}.{key}: {unknown(key, SWITCHES)}"
        elif not isinstance(value, bool):
            yield f"{PLACE}.{key}: {value!r} is not a boolean: write true or false without quotes"


def _device_problems(devices: object) -> Iterator[str]:
    fix = "write a node, such as /dev/infiniband/rdma_cm, or a group of /proc/devices, such as char-infiniband_verbs"
    if not isinstance(devices, (list, tuple)):
        yield f"service_devices: {devices!r} is not a list: {fix}"
        return
    for number, device in enumerate(devices):
        if not isinstance(device, str) or not _DEVICE.match(device):
            yield f"service_devices[{number}]: {device!r} is not a device: {fix}, with r, w, m behind it if need be"
