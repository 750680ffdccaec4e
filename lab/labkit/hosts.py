# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The hosts and their network: what podman is told, and bringing it all up or down."""

from __future__ import annotations

import json
import os
import re
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from .work import LabError, Workshop, digest, run

BOOT_SECONDS = 120
INOTIFY = Path("/proc/sys/fs/inotify/max_user_instances")
INOTIFY_WANTED = 8192


@dataclass(frozen=True)
class Lab:
    """Which lab: several can stand side by side, each with a name and a network of its own."""

    name: str = "steadfast"
    network: str = "10.87.42"

    @property
    def subnet(self) -> str:
        return f"{self.network}.0/24"

    def container(self, host: str) -> str:
        """Plain names for the lab that people use; those of another lab carry its name."""
        return host if self.name == Lab.name else f"{self.name}-{host}"

    @staticmethod
    def chosen() -> Lab:
        lab = Lab(os.environ.get("STEADFAST_LAB") or Lab.name, os.environ.get("STEADFAST_LAB_NETWORK") or Lab.network)
        if not re.fullmatch(r"[a-z][a-z0-9-]{0,30}", lab.name):
            raise LabError(f"STEADFAST_LAB={lab.name}: not a name (small letters, digits, dashes)")
        if not re.fullmatch(r"\d{1,3}(\.\d{1,3}){2}", lab.network):
            raise LabError(f"STEADFAST_LAB_NETWORK={lab.network}: give three numbers of a network, as 10.87.42")
        return lab


@dataclass(frozen=True)
class Host:
    name: str
    suite: str
    last_octet: int
    serves: bool = False
    aws: bool = False
    docker: bool = False


MOTO_PORT = 5000
# All that a lab can have; those of the whole way, where nobody chooses.
KNOWN = (
    Host("lb1", "trixie", 10),
    Host("gpu1", "bookworm", 11, serves=True),
    Host("gpu2", "bookworm", 12, serves=True),
    Host("aws1", "trixie", 20, aws=True),
    # trixie, because bookworm has no Compose 2
    Host("docker1", "trixie", 31, serves=True, docker=True),
    # NVIDIA's driver, on one host of each Debian
    Host("driver1", "bookworm", 41),
    Host("driver2", "trixie", 42),
)
USUAL = ("lb1", "gpu1", "gpu2", "aws1")


def chosen() -> tuple[Host, ...]:
    """The hosts of this lab: the usual ones, or those that STEADFAST_LAB_HOSTS names."""
    wanted = [name.strip() for name in os.environ.get("STEADFAST_LAB_HOSTS", "").split(",") if name.strip()] or USUAL
    unknown = set(wanted) - {host.name for host in KNOWN}
    if unknown:
        names = ", ".join(host.name for host in KNOWN)
        raise LabError(f"STEADFAST_LAB_HOSTS: {', '.join(sorted(unknown))}: no such host; there are {names}")
    return tuple(host for host in KNOWN if host.name in wanted)


@dataclass(frozen=True)
class Limits:
    open_files: int
    processes: int

    def options(self) -> list[str]:
        # said outright: without CAP_SYS_RESOURCE podman's own defaults are above what may be set
        return [
            f"--ulimit=nofile={self.open_files}:{self.open_files}",
            f"--ulimit=nproc={self.processes}:{self.processes}",
        ]


Mounts = tuple[tuple[str, str, str], ...]


def run_argv(lab: Lab, host: Host, image: str, limits: Limits, mounts: Mounts, content: str = "") -> list[str]:
    """The command that makes a host. Its digest is kept as a label, so that a change makes the host anew.

    CONTENT stands for what the lab itself puts on the host afterwards.
    """
    options = [
        f"--name={lab.container(host.name)}",
        f"--hostname={host.name}",
        f"--network={lab.name}:ip={lab.network}.{host.last_octet},alias={host.name}",
        "--privileged",
        # systemd gets a control group tree of its own; podman's own systemd mode would share the machine's
        "--cgroupns=private",
        "--systemd=false",
        "--tmpfs=/run:mode=755",
        "--tmpfs=/run/lock",
        "--tmpfs=/tmp:mode=1777,exec",
        "--stop-signal=SIGRTMIN+3",
        # a host that reboots itself comes back
        "--restart=always",
        "--pids-limit=-1",
        "--shm-size=1g",
        *limits.options(),
        *[f"--volume={source}:{target}:{mode}" for source, target, mode in mounts],
        # overlayfs does not stand on overlayfs, and Docker's other way copies whole images
        *([f"--volume={volume(lab, host)}:/var/lib/docker"] if host.docker else []),
        f"--label=steadfast.lab={lab.name}",
    ]
    label = digest(options, image, content)
    return ["podman", "--runtime=runc", "run", "--detach", *options, f"--label=steadfast.spec={label}", image]


def volume(lab: Lab, host: Host) -> str:
    return f"steadfast-{lab.name}-{host.name}-docker"


def ensure_volume(lab: Lab, host: Host) -> None:
    """Labelled, so that it goes with the lab."""
    name = volume(lab, host)
    if name not in run(["podman", "volume", "ls", "--quiet"], "listing volumes").split():
        run(["podman", "volume", "create", f"--label=steadfast.lab={lab.name}", name], "creating a volume")


def spec(argv: list[str]) -> str:
    return next(option.partition("steadfast.spec=")[2] for option in argv if "steadfast.spec=" in option)


def standing(lab: Lab) -> dict[str, dict[str, str]]:
    """The containers of a lab: name -> state and spec."""
    text = run(
        ["podman", "ps", "--all", "--filter", f"label=steadfast.lab={lab.name}", "--format", "json"], "listing hosts"
    )
    return {
        row["Names"][0]: {"state": row["State"], "spec": (row.get("Labels") or {}).get("steadfast.spec", "")}
        for row in json.loads(text or "[]")
    }


def _names() -> set[str]:
    return set(run(["podman", "ps", "--all", "--format", "{{.Names}}"], "listing containers").split())


def all_up(lab: Lab) -> bool:
    found = standing(lab)
    return all(found.get(lab.container(host.name), {}).get("state") == "running" for host in chosen())


def network_clash(lab: Lab, routes: str) -> str | None:
    """The route that a new lab network would hide, from `ip -4 route` lines."""
    for line in routes.splitlines():
        if line.startswith(lab.network + "."):
            return line.strip()
    return None


def ensure_network(lab: Lab) -> bool:
    listed = json.loads(run(["podman", "network", "ls", "--format", "json"], "listing networks") or "[]")
    found = next((row for row in listed if row.get("name", row.get("Name")) == lab.name), None)
    if found:
        subnets = [subnet["subnet"] for subnet in found.get("subnets", [])]
        if subnets == [lab.subnet]:
            return False
        if standing(lab):
            raise LabError(
                f"the network {lab.name} has {', '.join(subnets)}, not {lab.subnet}, and hosts stand on it: "
                "lab/destroy.yml first"
            )
        run(["podman", "network", "rm", lab.name], "removing the old network")
    clash = network_clash(lab, run(["ip", "-4", "route"], "reading routes"))
    if clash:
        raise LabError(
            f"{lab.subnet} is in use here ({clash}): give three other numbers, as STEADFAST_LAB_NETWORK=10.88.44"
        )
    run(
        ["podman", "network", "create", "--driver=bridge", f"--subnet={lab.subnet}", f"--gateway={lab.network}.1",
         f"--label=steadfast.lab={lab.name}", lab.name],
        "creating the network",
    )  # fmt: skip
    return True


def raise_inotify() -> bool:
    """Each systemd takes several watches; the kernel's default of 128 is spent by a few hosts."""
    if int(INOTIFY.read_text()) >= INOTIFY_WANTED:
        return False
    try:
        INOTIFY.write_text(str(INOTIFY_WANTED))
    except OSError:
        return False
    return True


def bring_up(shop: Workshop, lab: Lab, wanted: dict[str, list[str]]) -> list[str]:
    """Make, start or replace hosts until all run as WANTED (host name -> argv). What was done, line by line."""
    done = []
    wanted_hosts = [host for host in KNOWN if host.name in wanted]
    with shop.alone(f"hosts-{lab.name}"):
        if ensure_network(lab):
            done.append(f"network {lab.name} {lab.subnet} created")
        raise_inotify()
        found = standing(lab)
        foreign = {lab.container(host.name) for host in wanted_hosts} & _names() - set(found)
        if foreign:
            raise LabError(
                f"containers named {', '.join(sorted(foreign))} stand here that are not the lab's: rename or remove "
                "them, or give the lab another name with STEADFAST_LAB"
            )

        def one(host: Host) -> str | None:
            name, argv = lab.container(host.name), wanted[host.name]
            began = time.monotonic()
            row = found.get(name)
            if row and row["spec"] == spec(argv) and row["state"] == "running":
                return None
            if row and row["spec"] == spec(argv) and row["state"] in ("exited", "stopped"):
                run(["podman", "start", name], f"starting {name}")
                verb = "started"
            else:
                run(["podman", "rm", "--force", "--ignore", "--time=5", "--volumes", name], f"removing {name}")
                if host.docker:
                    ensure_volume(lab, host)
                run(argv, f"creating {name}")
                verb = "replaced" if row else "created"
            await_boot(name)
            return f"{host.name} {verb} in {time.monotonic() - began:.1f} s"

        with ThreadPoolExecutor(len(wanted_hosts)) as pool:
            done += [line for line in pool.map(one, wanted_hosts) if line]
    for line in done:
        shop.say(line)
    return done


def await_boot(name: str) -> None:
    """Wait until systemd says that it is running; a degraded host says which units failed."""
    deadline = time.monotonic() + BOOT_SECONDS
    state = "unknown"
    while time.monotonic() < deadline:
        try:
            asked = "systemctl is-system-running 2>/dev/null || true"
            state = run(["podman", "exec", name, "sh", "-c", asked], f"asking systemd of {name}").strip()
        except LabError as problem:
            state = str(problem).splitlines()[-1]
        if state == "running":
            return
        if state == "degraded":
            break
        time.sleep(0.3)
    failed = run(
        ["podman", "exec", name, "sh", "-c", "systemctl --failed --no-legend --plain; journalctl -b -n 15 --no-pager"],
        f"{name} does not boot ({state})",
    )
    raise LabError(f"{name}: systemd says {state} after {BOOT_SECONDS} s at most:\n{failed}")


def answers(lab: Lab, last_octet: int, port: int) -> bool:
    try:
        with socket.create_connection((f"{lab.network}.{last_octet}", port), timeout=2):
            return True
    except OSError:
        return False


def _remove(shop: Workshop, lab: Lab) -> None:
    """All hosts that stand. podman fails for one that ends by itself just then ("container state improper")."""
    for tries in (2, 1, 0):
        present = sorted(standing(lab))
        if not present:
            return
        try:
            run(["podman", "rm", "--force", "--time=2", "--volumes", *present], "removing the hosts")
        except LabError as problem:
            if not tries:
                raise
            shop.say(f"removing the hosts once more: {problem}")
            time.sleep(1)


def take_down(shop: Workshop, lab: Lab) -> list[str]:
    done = []
    with shop.alone(f"hosts-{lab.name}"):
        present = sorted(standing(lab))
        if present:
            _remove(shop, lab)
            done += [f"{name} removed" for name in present]
        volumes = run(["podman", "volume", "ls", "--quiet", "--filter", f"label=steadfast.lab={lab.name}"], "volumes")
        if volumes.split():
            run(["podman", "volume", "rm", "--force", *volumes.split()], "removing volumes")
            done += [f"volume {volume} removed" for volume in volumes.split()]
        if lab.name in run(["podman", "network", "ls", "--format", "{{.Name}}"], "listing networks").split():
            run(["podman", "network", "rm", "--force", lab.name], "removing the network")
            done.append(f"network {lab.name} removed")
    for line in done:
        shop.say(line)
    return done
