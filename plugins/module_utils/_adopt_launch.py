# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How a server was started, from its control groups and the processes above it (private to this collection).

Pure, standard library only.
"""

from __future__ import annotations

import os.path
import re
import typing as t
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Process:
    """A process as /proc has it."""

    pid: int
    parent: int
    born: int  # clock ticks since boot: with the pid, an identity
    name: str  # comm
    argv: tuple[str, ...]
    groups: tuple[str, ...] = ()  # control group paths
    uid: int = 0
    space: str = ""  # its PID namespace
    hangup_ignored: bool = False
    terminal: bool = False


@dataclass(frozen=True)
class Launch:
    """kind: unit, user-unit, container, pod, tmux, screen, supervisor, managed, terminal, background."""

    kind: str
    name: str = ""  # unit, container id, supervisor
    uid: int = 0  # of a user unit
    pane: int = 0  # the process that tmux or screen runs in the server's window
    wrappers: tuple[int, ...] = ()  # scripts and programs above the server that live for it alone, nearest first
    runtime: str = ""  # of a container
    detail: str = ""


# Services whose children are logins or jobs: the unit itself did not start a server that is found in it.
SESSIONS = re.compile(
    r"(ssh|sshd|cron|crond|atd|getty|console-getty|container-getty|serial-getty|systemd-logind|user|rc-local|"
    r"session-.*|sddm|gdm|lightdm|amazon-ssm-agent|snap\.amazon-ssm-agent.*|google-.*|cloud-.*|containerd|docker|podman)"
    r"(@.*)?\.service"
)
# By comm (15 characters) or the name of the program: what starts again what ends.
SUPERVISORS = (
    "supervisord", "runsv", "s6-supervise", "circusd", "pm2", "god", "monit", "slurmstepd", "immortal",
    "process-compose", "honcho", "foreman",
)  # fmt: skip
POD = re.compile(r"kubepods")
CONTAINERS = (
    (re.compile(r"(?:^|/)docker[-/]([0-9a-f]{64})(?:\.scope)?(?:/|$)"), "docker"),
    (re.compile(r"(?:^|/)libpod-([0-9a-f]{64})(?:\.scope)?(?:/|$)"), "podman"),
    (re.compile(r"(?:^|/)libpod_parent/libpod-([0-9a-f]{64})(?:/|$)"), "podman"),
    (re.compile(r"(?:^|/)cri-containerd[-:]([0-9a-f]{64})"), "containerd"),
    (re.compile(r"(?:^|/)nerdctl[-/]([0-9a-f]{64})"), "containerd"),
    (re.compile(r"(?:^|/)lxc(?:\.payload)?[./]([^/]+)"), "lxc"),
)
SHELLS = ("sh", "bash", "dash", "zsh", "fish", "ksh", "ash", "csh", "tcsh")
# Programs that only run another one and end with it.
WRAPPERS = (
    "uv", "uvx", "sudo", "su", "timeout", "time", "env", "nice", "ionice", "numactl", "taskset", "setsid", "script",
    "stdbuf", "chrt", "doas", "runuser", "setpriv", "poetry", "pipenv", "pdm", "hatch", "conda", "micromamba", "make",
    "accelerate", "torchrun", "nohup", "unshare", "chroot", "watch", "dumb-init", "tini", "catatonit",
)  # fmt: skip


def ancestors(pid: int, everyone: Mapping[int, Process]) -> list[Process]:
    """The processes above, nearest first."""
    chain: list[Process] = []
    seen = {pid}
    here = everyone.get(pid)
    while here and here.parent in everyone and here.parent not in seen:
        here = everyone[here.parent]
        seen.add(here.pid)
        chain.append(here)
    return chain


def descendants(pid: int, everyone: Mapping[int, Process]) -> set[int]:
    """The process and all below it."""
    below = {pid}
    grown = True
    while grown:
        more = {process.pid for process in everyone.values() if process.parent in below} - below
        below |= more
        grown = bool(more)
    return below


def container_of(groups: Sequence[str]) -> tuple[str, str] | None:
    """(runtime, id) from control group paths."""
    for path in groups:
        for pattern, runtime in CONTAINERS:
            found = pattern.search(path)
            if found:
                return runtime, found[1]
    return None


def unit_of(groups: Sequence[str]) -> tuple[str, int | None] | None:
    """(unit, uid of the user's systemd or None) of a service that is no login and no session."""
    for path in groups:
        user = re.search(r"/user@([0-9]+)\.service/(.*)", path)
        services = re.findall(r"(?:^|/)([^/]+\.service)(?=/|$)", user[2] if user else path)
        if not services or (not user and SESSIONS.fullmatch(services[0])):
            continue
        return services[0], int(user[1]) if user else None
    return None


def program(process: Process) -> str:
    """What a process runs: the script of an interpreter, else its program."""
    words = process.argv
    first = os.path.basename(words[0]).lstrip("-") if words else process.name
    if re.fullmatch(r"python[0-9.]*|node|perl|ruby", first):
        script = next((word for word in words[1:] if not word.startswith("-")), "")
        inline = any(re.fullmatch(r"-[A-Za-z]*[cem]", word) for word in words[1 : words.index(script) if script else 1])
        return first if inline else os.path.basename(script) or first
    return first


def is_shell(process: Process) -> bool:
    return program(process) in SHELLS


def interactive(process: Process) -> bool:
    """Whether a shell waits for a person: it has neither a script nor -c."""
    return all(word.startswith(("-", "+")) and not re.fullmatch(r"-[A-Za-z]*c", word) for word in process.argv[1:])


def supervisor(chain: Sequence[Process]) -> str:
    """The program above that would start the server again; nothing if there is none."""
    for process in chain:
        names = {program(process), process.name}
        if process.argv and process.argv[0].startswith("PM2"):
            names.add("pm2")
        for name in SUPERVISORS:
            if name in names:
                return name
    return ""


def multiplexer(process: Process) -> str:
    """tmux or screen, if a process is their server."""
    if process.name.startswith("tmux: server"):
        return "tmux"
    name = os.path.basename(process.argv[0]) if process.argv else process.name
    return "screen" if process.name.lower() == "screen" or name == "SCREEN" else ""


def wrappers(chain: Sequence[Process]) -> Iterator[Process]:
    """What above a server exists only to run it: scripts, uv run, sudo. The first shell of a person ends it."""
    for process in chain:
        if process.pid == 1 or multiplexer(process):
            return
        if is_shell(process):
            if interactive(process):
                return
        elif program(process) not in WRAPPERS and process.name not in WRAPPERS:
            return
        yield process


def classify(server: Process, everyone: Mapping[int, Process]) -> Launch:
    """How a server was started."""
    chain = ancestors(server.pid, everyone)
    inside = [process for process in chain if process.space == server.space]
    above = tuple(process.pid for process in wrappers(inside))
    found = container_of(server.groups)
    host_space = everyone[1].space if 1 in everyone else ""
    if any(POD.search(path) for path in server.groups):
        return Launch("pod", wrappers=above)
    if found or (server.space and host_space and server.space != host_space):
        runtime, identity = found or ("", "")
        first = inside[-1] if inside else server
        init = program(first) in ("init", "systemd")
        return Launch(
            "container", identity, wrappers=above, runtime=runtime, detail="a whole system runs in it" if init else ""
        )
    guard = supervisor(chain)
    if guard:
        return Launch("supervisor", guard, wrappers=above)
    for index, process in enumerate(chain):
        kind = multiplexer(process)
        if kind:
            pane = chain[index - 1].pid if index else server.pid
            return Launch(kind, pane=pane, wrappers=tuple(pid for pid in above if pid != pane))
    unit = unit_of(server.groups)
    if unit:
        name, uid = unit
        return Launch("unit" if uid is None else "user-unit", name, uid or 0, wrappers=above)
    kind = "terminal" if server.terminal and not server.hangup_ignored and _attached(chain) else "background"
    cron = any("cron" in path for path in server.groups)
    return Launch(kind, wrappers=above, detail="from a cron job" if cron else "")


def _attached(chain: Sequence[Process]) -> bool:
    """Whether a person's shell is still above."""
    return any(is_shell(process) and interactive(process) for process in chain)


def told(launch: Launch, server: Process) -> str:
    """For people."""
    texts: dict[str, str] = {
        "unit": f"systemd unit {launch.name}",
        "user-unit": f"systemd user unit {launch.name} of uid {launch.uid}",
        "container": f"{launch.runtime or 'unknown'} container {launch.name[:12]}",
        "pod": "Kubernetes pod",
        "tmux": "tmux session",
        "screen": "screen session",
        "supervisor": f"under {launch.name}",
        "terminal": "in the foreground of a login's terminal",
        "background": "in the background",
        "managed": f"by this collection (instance {launch.name})",
    }
    text = texts[launch.kind]
    if server.hangup_ignored and launch.kind in ("background", "tmux", "screen", "terminal"):
        text += " with nohup"
    return f"{text}, {launch.detail}" if launch.detail else text


def fields(launch: Launch) -> dict[str, t.Any]:
    """For the module's result."""
    return {"kind": launch.kind, "name": launch.name, "runtime": launch.runtime}
