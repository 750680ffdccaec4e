# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who listens at a TCP port, read from /proc (private to this collection).

Neither ss nor lsof is on every host, and both print arguments of processes, which may hold secrets.
"""

from __future__ import annotations

import ipaddress
import os
import pwd
import re
import sys
import typing as t
from collections.abc import Collection, Iterator
from pathlib import Path

LISTEN = "0A"
# Letters of a name that /proc/PID/comm keeps.
COMM = 15
# A program may write what it likes into its first word: no more than a name is taken from it.
NAME = re.compile(r"[\w.:+-]{1,64}", re.ASCII)


def parse(table: str) -> Iterator[tuple[str, int, int, int]]:
    """(address, port, uid, inode) of each listening socket in the text of /proc/net/tcp or tcp6."""
    for line in table.splitlines()[1:]:
        words = line.split()
        if len(words) < 10 or words[3] != LISTEN:
            continue
        address, _colon, port = words[1].partition(":")
        yield decode(address), int(port, 16), int(words[7]), int(words[9])


def decode(text: str) -> str:
    """An address as the kernel prints it: words of four bytes, each in the machine's own order."""
    raw = bytes.fromhex(text)
    words = [raw[start : start + 4] for start in range(0, len(raw), 4)]
    if sys.byteorder == "little":
        words = [word[::-1] for word in words]
    address = ipaddress.ip_address(b"".join(words))
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)


def unit_of(cgroup: str) -> str | None:
    """The service that a process belongs to, from the text of /proc/PID/cgroup; the outermost, if services nest."""
    for line in cgroup.splitlines():
        found = re.search(r"(?:^|/)([^/]+\.service)(?:/|$)", line.split(":", 2)[-1])
        if found:
            return found[1]
    return None


def listeners(ports: Collection[int], proc: str = "/proc") -> list[dict[str, t.Any]]:
    """Who listens at these ports: address, port, pid, command, user and unit (None where it cannot be seen)."""
    found: dict[int, dict[str, t.Any]] = {}
    for name in ("tcp", "tcp6"):
        try:
            table = Path(proc, "net", name).read_text(encoding="ascii")
        except OSError:
            continue
        for address, port, uid, inode in parse(table):
            if port in ports:
                found[inode] = {
                    "address": address, "port": port, "user": _user(uid), "pid": None, "command": None, "unit": None,
                }  # fmt: skip
    for inode, pid in owners(set(found), proc):
        if found[inode]["pid"] is None:
            found[inode].update(
                pid=pid,
                command=title(pid, proc) or "unknown",
                unit=unit_of(_text(f"{proc}/{pid}/cgroup")),
            )
    return sorted(found.values(), key=lambda listener: (listener["port"], listener["address"]))


def title(pid: int, proc: str = "/proc") -> str:
    """The name of a process; "" where it has ended.

    The kernel keeps 15 letters of it. The rest is taken from the first word of the command line, or from the name of
    the program, where that begins with those letters. No other word is looked at: it may hold a secret.
    """
    kept = _text(f"{proc}/{pid}/comm").strip()
    if len(kept.encode()) < COMM:
        return kept
    first = _text(f"{proc}/{pid}/cmdline").partition("\0")[0]
    try:
        program = os.readlink(f"{proc}/{pid}/exe")
    except OSError:
        program = ""
    for candidate in (first, first.rpartition("/")[2], program.rpartition("/")[2]):
        name = NAME.match(candidate)
        if name and name[0].startswith(kept):
            return name[0]
    return kept


def owners(inodes: Collection[int], proc: str = "/proc") -> Iterator[tuple[int, int]]:
    """(inode, pid) of processes that hold these sockets open, the oldest first: a parent before its workers."""
    if not inodes:
        return
    wanted = {f"socket:[{inode}]": inode for inode in inodes}
    for pid in sorted(int(name) for name in os.listdir(proc) if name.isdecimal()):
        try:
            handles = os.listdir(f"{proc}/{pid}/fd")
        except OSError:
            continue
        for handle in handles:
            try:
                target = os.readlink(f"{proc}/{pid}/fd/{handle}")
            except OSError:
                continue
            if target in wanted:
                yield wanted[target], pid


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
