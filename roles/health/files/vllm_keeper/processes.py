# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Processes as /proc shows them: identity that survives pid reuse, leftovers of an instance, who listens on a port."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")


@dataclass(frozen=True)
class Process:
    pid: int
    parent: int
    born: int  # clock ticks since boot: with the pid, an identity
    command: tuple[str, ...]
    groups: tuple[str, ...]  # control group paths
    zombie: bool = False
    here: bool = True  # in our own PID namespace, not in some container
    group: int = 0  # process group
    session: int = 0

    @property
    def title(self) -> str:
        return " ".join(self.command)[:120] or "?"


def read(pid: int, proc: Path = PROC) -> Process | None:
    folder = proc / str(pid)
    try:
        stat = (folder / "stat").read_bytes().decode("utf-8", "replace")
        command = (folder / "cmdline").read_bytes()
    except OSError:
        return None
    # The name in parentheses may itself hold spaces and parentheses.
    rest = stat[stat.rindex(")") + 2 :].split()
    groups: list[str] = []
    with contextlib.suppress(OSError, UnicodeDecodeError):
        for line in (folder / "cgroup").read_text(encoding="utf-8").splitlines():
            groups.append(line.split(":", 2)[2])
    words = tuple(word.decode("utf-8", "replace") for word in command.split(b"\0") if word)
    spaces = [_target(proc / who / "ns" / "pid") for who in (str(pid), "self")]
    here = not all(spaces) or spaces[0] == spaces[1]
    return Process(
        pid, int(rest[1]), int(rest[19]), words, tuple(groups), rest[0] in "ZX", here, int(rest[2]), int(rest[3])
    )


def everyone(proc: Path = PROC) -> dict[int, Process]:
    found: dict[int, Process] = {}
    for folder in proc.iterdir():
        if folder.name.isdigit():
            process = read(int(folder.name), proc)
            if process is not None and not process.zombie:
                found[process.pid] = process
    return found


def kin(pid: int, proc: Path = PROC) -> dict[int, Process]:
    """The process and its descendants. Of all others no more is read than whose children they are."""
    children: dict[int, list[int]] = {}
    for name in os.listdir(proc):
        if name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):  # it has just ended
                with open(f"{proc}/{name}/stat", "rb") as file:
                    parent = int(file.read().rpartition(b") ")[2].split(None, 2)[1])
                children.setdefault(parent, []).append(int(name))
    found: dict[int, Process] = {}
    wanted = [pid]
    while wanted:
        process = read(wanted.pop(), proc)
        if process is not None and process.pid not in found:
            wanted += children.get(process.pid, [])
            if not process.zombie:
                found[process.pid] = process
    return found


def alive(process: Process, proc: Path = PROC) -> bool:
    now = read(process.pid, proc)
    return now is not None and now.born == process.born and not now.zombie


def family(pid: int, all_of_them: dict[int, Process]) -> set[int]:
    """The process, its ancestors and its descendants."""
    kin = {pid}
    above = pid
    while above in all_of_them and all_of_them[above].parent not in (0, above):
        above = all_of_them[above].parent
        kin.add(above)
    return kin | descendants(pid, all_of_them)


def descendants(pid: int, all_of_them: dict[int, Process]) -> set[int]:
    below: set[int] = {pid}
    grown = True
    while grown:
        more = {p.pid for p in all_of_them.values() if p.parent in below} - below
        below |= more
        grown = bool(more)
    return below


def in_group(process: Process, group: str) -> bool:
    return bool(group.strip("/")) and any(path == group or path.startswith(group + "/") for path in process.groups)


def serves(command: Sequence[str], config_file: str) -> bool:
    """Is this `... serve ... --config <config_file>`?"""
    if not config_file or "serve" not in command:
        return False
    place = command.index("serve")
    if any("vllm_keeper" in word for word in command[:place]):
        return False  # `vllm-keeper run` names on its command line what it runs
    after = command[place:]
    return f"--config={config_file}" in after or any(
        flag == "--config" and value == config_file for flag, value in zip(after, after[1:])
    )


@dataclass(frozen=True)
class Leftovers:
    orphans: tuple[Process, ...] = ()  # ours, and nobody's any more: may be ended
    strangers: tuple[Process, ...] = ()  # this instance's server, but held by somebody: only waited for


def leftovers(
    all_of_them: dict[int, Process],
    me: int,
    group: str,
    config_file: str,
    runs: Iterable[tuple[int, int, int]] = (),
) -> Leftovers:
    """Pure. What an earlier run left: in the unit's control group, in the process group of an earlier
    `vllm-keeper run` (RUNS: process group, session, birth of its first process), or an abandoned server of this
    configuration file.

    Kept narrow on purpose. A server that somebody started by hand has a shell or a tmux above it and is left alone,
    and so is anything in the control group of another service.
    """
    own = family(me, all_of_them)
    earlier = {(pgrp, session): born for pgrp, session, born in runs}
    orphans: dict[int, Process] = {}
    strangers: dict[int, Process] = {}
    for process in all_of_them.values():
        # A container on this host may well serve a file of the same name.
        if process.pid in own or process.pid == 1 or not process.command or not process.here:
            continue
        if in_group(process, group) or process.born >= earlier.get((process.group, process.session), process.born + 1):
            orphans[process.pid] = process
        elif serves(process.command, config_file):
            if process.parent == 1 and not _other_service(process):
                # Its engine and workers carry no file name, only their parent shows whose they are.
                for pid in descendants(process.pid, all_of_them) - own:
                    orphans[pid] = all_of_them[pid]
            else:
                strangers[process.pid] = process
    return Leftovers(
        tuple(sorted(orphans.values(), key=lambda p: p.pid)),
        tuple(sorted((p for p in strangers.values() if p.pid not in orphans), key=lambda p: p.pid)),
    )


def _other_service(process: Process) -> bool:
    return any(path.rstrip("/").endswith(".service") or ".service/" in path for path in process.groups)


def end(processes: Iterable[Process], proc: Path = PROC) -> None:
    for process in processes:
        if alive(process, proc):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(process.pid, signal.SIGKILL)


def listeners(port: int, proc: Path = PROC) -> set[int]:
    """Inodes of the sockets that listen on this TCP port."""
    found: set[int] = set()
    for table in ("tcp", "tcp6"):
        try:
            lines = (proc / "net" / table).read_text(encoding="ascii").splitlines()[1:]
        except (OSError, UnicodeDecodeError):
            continue
        for line in lines:
            fields = line.split()
            if len(fields) > 9 and fields[3] == "0A" and int(fields[1].rsplit(":", 1)[1], 16) == port:
                found.add(int(fields[9]))
    return found


def holders(inodes: set[int], proc: Path = PROC) -> set[int]:
    """Pids that hold one of these sockets; needs root to see those of other users."""
    wanted = {f"socket:[{inode}]" for inode in inodes}
    found: set[int] = set()
    for folder in proc.iterdir() if wanted else ():
        if not folder.name.isdigit():
            continue
        with contextlib.suppress(OSError):  # it ended, or is not ours to see
            if any(_target(handle) in wanted for handle in (folder / "fd").iterdir()):
                found.add(int(folder.name))
    return found


def _target(link: Path) -> str:
    try:
        return str(link.readlink())
    except OSError:
        return ""


def foreign_listener(port: int, main: int, group: str, proc: Path = PROC) -> Process | None:
    """The process of somebody else that listens on this instance's port; None when it is ours or cannot be told."""
    owners = holders(listeners(port, proc), proc)
    if not owners:
        return None
    known = everyone(proc)
    ours = descendants(main, known)
    if any(pid in ours or (pid in known and in_group(known[pid], group)) for pid in owners):
        return None
    return next((known[pid] for pid in sorted(owners) if pid in known), None)
