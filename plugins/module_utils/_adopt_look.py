# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What can be seen of running vLLM servers: the eyes of adoption (private to this collection, runs on the host).

Nothing is changed here. What is secret stays in the values of this file's objects and is shown by none of them.
"""

from __future__ import annotations

import datetime
import http.client
import json
import os
import pwd
import re
import typing as t
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ansible_collections.steadfast.vllm.plugins.module_utils import _adopt_arguments, _adopt_launch, _derive, _sockets
from ansible_collections.steadfast.vllm.plugins.module_utils._adopt_launch import Process

PROC = Path("/proc")
# argv -> (exit status, standard output, standard error); raises OSError where there is no such program.
Runner = Callable[[Sequence[str]], "tuple[int, str, str]"]
SIGHUP_BIT = 1
ANSWER_BYTES = 2**20
REQUESTS = re.compile(r"^vllm:num_requests_(?:running|waiting)(?:\{.*\})? ([0-9.e+]+)$", re.MULTILINE)


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _text(path: Path) -> str:
    return _bytes(path).decode("utf-8", "replace")


def _link(path: Path) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


def process(pid: int, proc: Path = PROC) -> Process | None:
    """A living process, or None."""
    folder = proc / str(pid)
    stat, command = _text(folder / "stat"), _bytes(folder / "cmdline")
    if ")" not in stat:
        return None
    # The name in parentheses may itself hold spaces and parentheses.
    name, rest = stat[stat.index("(") + 1 : stat.rindex(")")], stat[stat.rindex(")") + 2 :].split()
    if rest[0] in "ZX":
        return None
    status = _text(folder / "status")
    ignored = re.search(r"^SigIgn:\s*([0-9a-f]+)", status, re.MULTILINE)
    uid = re.search(r"^Uid:\s*(\d+)", status, re.MULTILINE)
    words = command.rstrip(b"\0").split(b"\0") if command.strip(b"\0") else []
    return Process(
        pid=pid,
        parent=int(rest[1]),
        born=int(rest[19]),
        name=name,
        argv=tuple(word.decode("utf-8", "replace") for word in words),
        groups=tuple(line.split(":", 2)[2] for line in _text(folder / "cgroup").splitlines() if line.count(":") > 1),
        uid=int(uid[1]) if uid else 0,
        space=_link(folder / "ns" / "pid"),
        hangup_ignored=bool(ignored and int(ignored[1], 16) & SIGHUP_BIT),
        terminal=rest[4] != "0",
    )


def everyone(proc: Path = PROC) -> dict[int, Process]:
    found = (process(int(name), proc) for name in os.listdir(proc) if name.isdecimal())
    return {item.pid: item for item in found if item}


def servers(known: Mapping[int, Process]) -> list[tuple[Process, _adopt_arguments.Command]]:
    """API servers, without the processes that they started themselves."""
    found = {pid: _adopt_arguments.command_of(item.argv) for pid, item in known.items()}
    return [
        (known[pid], command)
        for pid, command in sorted(found.items())
        if command and not any(found.get(above.pid) for above in _adopt_launch.ancestors(pid, known))
    ]


def environ(pid: int, proc: Path = PROC) -> dict[str, str]:
    """The variables that a process was started with."""
    pairs = (
        item.decode("utf-8", "replace").partition("=") for item in _bytes(proc / str(pid) / "environ").split(b"\0")
    )
    return {name: value for name, equals, value in pairs if equals}


def since(born: int, proc: Path = PROC) -> str:
    """When a process was started, in UTC."""
    boot = re.search(r"^btime (\d+)", _text(proc / "stat"), re.MULTILINE)
    if not boot:
        return ""
    seconds = int(boot[1]) + born / os.sysconf("SC_CLK_TCK")
    return datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")


def user(uid: int) -> tuple[str, str]:
    """(name, home)"""
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        return str(uid), "/"
    return entry.pw_name, entry.pw_dir


def listening(pid: int, tree: set[int], proc: Path = PROC) -> list[tuple[str, int, bool]]:
    """(address, port, whether others listen at it too) of what a server's processes listen at, in its own network."""
    sockets = []
    for name in ("tcp", "tcp6"):
        sockets += list(_sockets.parse(_text(proc / str(pid) / "net" / name)))
    inodes = {inode for _address, _port, _uid, inode in sockets}
    owners: dict[int, set[int]] = {}
    for inode, owner in _sockets.owners(inodes, str(proc)):
        owners.setdefault(inode, set()).add(owner)
    own = {inode for inode, pids in owners.items() if pids & tree}
    found = set()
    for address, port, _uid, inode in sockets:
        if inode in own:
            shared = any(other == port and there == address and inode2 not in own
                         for there, other, _u, inode2 in sockets)  # fmt: skip
            found.add((address, port, shared))
    return sorted(found, key=lambda item: (item[1], item[0]))


def ask(address: str, port: int, key: str | None, timeout: float = 5) -> dict[str, t.Any] | None:
    """The first model of /v1/models; None where it does not say."""
    try:
        models = json.loads(_get(address, port, "/v1/models", key, timeout))["data"]
        # Adapters stand there too, with the base model as their parent.
        first = next((model for model in models if not model.get("parent")), models[0])
        return {name: first.get(name) for name in ("id", "root", "max_model_len")}
    except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError, http.client.HTTPException):
        return None


def requests(address: str, port: int, timeout: float = 5) -> int | None:
    """How many requests a server has, running and waiting, by its /metrics; None where it does not say."""
    try:
        told = _get(address, port, "/metrics", None, timeout).decode(errors="replace")
        counts = [float(count) for count in REQUESTS.findall(told)]
    except (OSError, ValueError, http.client.HTTPException):
        return None
    return int(sum(counts)) if counts else None


def _get(address: str, port: int, path: str, key: str | None, timeout: float) -> bytes:
    """What the server answers, up to ANSWER_BYTES of it; raises what http.client does."""
    where = urllib.parse.urlsplit(_derive.base_url(address, port))
    connection = http.client.HTTPConnection(where.hostname or "localhost", where.port, timeout=timeout)
    try:
        connection.request("GET", path, headers={"Authorization": f"Bearer {key}"} if key else {})
        return connection.getresponse().read(ANSWER_BYTES)
    finally:
        connection.close()


def mounts(text: str) -> list[tuple[str, str, str, str]]:
    """(device, root, mount point, file system) of each line of a mountinfo."""
    found = []
    for line in text.splitlines():
        words = line.split(" ")
        if len(words) > 6 and "-" in words[6:]:
            kind = words[words.index("-", 6) + 1]
            root, point = (re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), word) for word in words[3:5])
            found.append((words[2], root, point, kind))
    return found


def host_path(path: str, inside: str, outside: str) -> str | None:
    """Where a path of a container lies on the host, from both mountinfo texts; None where only the container has it."""

    def below(path: str, top: str) -> bool:
        return path == top or path.startswith(top.rstrip("/") + "/")

    around = [mount for mount in mounts(inside) if below(path, mount[2])]
    if not around:
        return None
    device, root, point, kind = max(around, key=lambda mount: len(mount[2]))
    layered = kind in ("overlay", "fuse-overlayfs", "fuse.fuse-overlayfs")
    if kind == "tmpfs" or (layered and point == "/"):
        return None
    inner = os.path.normpath(os.path.join(root, os.path.relpath(path, point)))
    same = [mount for mount in mounts(outside) if mount[0] == device and below(inner, mount[1])]
    # The host's own root may be layered too. Layers that it has elsewhere are those of images, and go with them.
    if layered:
        same = [mount for mount in same if mount[2] == "/"]
    if not same:
        return None
    _device, root, point, _kind = max(same, key=lambda mount: len(mount[1]))
    return os.path.normpath(os.path.join(point, os.path.relpath(inner, root)))


def container(runtime: str, identity: str, run: Runner) -> dict[str, t.Any] | None:
    """What docker or podman say of a container; None where they cannot be asked."""
    try:
        status, output, _errors = run([runtime, "inspect", "--type", "container", identity])
        told = json.loads(output)[0] if status == 0 else None
        return told if isinstance(told, dict) else None
    except (OSError, ValueError, IndexError, KeyError):
        return None


def link(pid: int, name: str, proc: Path = PROC) -> str:
    """What a link in a process's folder points at."""
    return _link(proc / str(pid) / name)


def text(pid: int, name: str, proc: Path = PROC) -> str:
    """A file in a process's folder."""
    return _text(proc / str(pid) / name)


def account(uid: int) -> pwd.struct_passwd | None:
    """The user's entry in the user database."""
    try:
        return pwd.getpwuid(uid)
    except KeyError:
        return None
