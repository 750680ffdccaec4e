# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Start HAProxy when its servers' names are known, carry what it knows about them over a reload, and make sure that
the reload took place.

Run it as /usr/bin/python3 -I haproxy_state.py ...:
save SOCKET FILE CONFIG        before the reload: the servers' state into FILE, fit for the new CONFIG; the process in
                               charge into FILE.pid
confirm SOCKET FILE [SECONDS]  after it: wait until another process is in charge; exit 1 with the reason if none is
resolve NAME...                before the start: wait until all names have an address; exit 1 if some never get one

Standard library only: it runs as part of `systemctl reload haproxy`, when nothing else may be at hand.
"""

from __future__ import annotations

import os
import socket
import sys
import time
import typing as t
from pathlib import Path

# A new process first looks up the servers' names, and a name server may be slow.
PATIENCE = 30

# Fields of the state that repeat a setting, and what each says when it has nothing to say.
SETTINGS = {"srv_check_port": "0", "srv_check_addr": "-", "srv_agent_addr": "-", "srv_agent_port": "0"}
# In srv_agent_state: the configuration has an agent for this server (HAProxy's management guide, `show servers state`).
AGENT_CONFIGURED = 2


def ask(path: str, command: str) -> str:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(5)
        connection.connect(path)
        connection.sendall(command.encode() + b"\n")
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
    return answer.decode()


def process(path: str) -> str:
    """The process that answers on the socket, as HAProxy itself names it."""
    for line in ask(path, "show info").splitlines():
        key, _colon, value = line.partition(":")
        if key == "Pid":
            return value.strip()
    raise OSError(f"{path}: `show info` named no process")


def replace(path: Path, text: str) -> None:
    """Whole or not at all: the new process may read it at any moment."""
    staged = path.with_name(path.name + ".new")
    staged.write_text(text)
    os.replace(staged, path)


class Configured(t.NamedTuple):
    """What the new configuration says of a server."""

    port: str
    agent: bool


def configured(text: str) -> dict[tuple[str, str], Configured]:
    """By backend and server; of the role's own template, in which `default-server` stands before the servers."""
    found: dict[tuple[str, str], Configured] = {}
    backend, agent = "", False
    for line in text.splitlines():
        words = line.split()
        if words[:1] == ["backend"] and len(words) > 1:
            backend, agent = words[1], False
        elif words[:1] == ["default-server"]:
            agent = "agent-check" in words
        elif words[:1] == ["server"] and len(words) > 2:
            found[backend, words[1]] = Configured(words[2].rpartition(":")[2], agent)
    return found


def fitted(state: str, servers: t.Mapping[tuple[str, str], Configured]) -> str:
    """The state without what the new configuration decides.

    HAProxy would take ports and addresses of servers, checks and agents from the state, so that a changed one had no
    effect until the next restart. And a weight that an agent gave would stay for ever where none is asked any more.
    """
    lines = state.splitlines()
    titles: list[str] = []
    for number, line in enumerate(lines):
        if line.startswith("# "):
            titles = line[2:].split()
        elif titles and len(line.split()) == len(titles):
            fields = dict(zip(titles, line.split()))
            for title, nothing in SETTINGS.items():
                if title in fields:
                    fields[title] = nothing
            server = servers.get((fields.get("be_name", ""), fields.get("srv_name", "")))
            if server:
                fields["srv_port"] = server.port
                if not server.agent and int(fields["srv_agent_state"]) & AGENT_CONFIGURED:
                    fields["srv_uweight"] = fields["srv_iweight"]
            lines[number] = " ".join(fields.values())
    return "".join(f"{line}\n" for line in lines)


def save(path: str, state: Path, config: Path) -> int:
    try:
        replace(state, fitted(ask(path, "show servers state"), configured(config.read_text())))
        replace(state.with_name(state.name + ".pid"), process(path))
    except OSError as error:
        # Without the state a reload is still right, only less smooth: every server counts as up until checked.
        print(f"<4>the servers' state is not carried over this reload: {error}", file=sys.stderr)
        for stale in (state, state.with_name(state.name + ".pid")):
            stale.unlink(missing_ok=True)
    return 0


def confirm(path: str, state: Path, patience: int = PATIENCE) -> int:
    try:
        before = state.with_name(state.name + ".pid").read_text().strip()
    except FileNotFoundError:
        before = ""
    until = time.monotonic() + patience
    reason = ""
    while time.monotonic() < until:
        try:
            if process(path) != before:
                return 0
            reason = f"process {before} is still in charge, with the old configuration"
        except OSError as error:
            reason = f"{path}: {error}"
        time.sleep(0.1)
    print(
        f"<3>HAProxy did not take the new configuration within {patience} s: {reason}; "
        "the reason stands in journalctl -u haproxy (often a port that another program holds)",
        file=sys.stderr,
    )
    return 1


def resolve(names: list[str], patience: int = PATIENCE) -> int:
    until = time.monotonic() + patience
    while True:
        unknown = [name for name in names if not known(name)]
        if not unknown:
            return 0
        if time.monotonic() >= until:
            break
        time.sleep(1)
    print(
        f"<4>no address for {', '.join(unknown)} within {patience} s: HAProxy starts without them; "
        "once they are known, systemctl reload haproxy",
        file=sys.stderr,
    )
    return 1


def known(name: str) -> bool:
    try:
        return bool(socket.getaddrinfo(name, None))
    except (OSError, UnicodeError):
        return False


def main(arguments: list[str]) -> int:
    if len(arguments) == 4 and arguments[0] == "save":
        return save(arguments[1], Path(arguments[2]), Path(arguments[3]))
    if len(arguments) in (3, 4) and arguments[0] == "confirm":
        return confirm(arguments[1], Path(arguments[2]), int(arguments[3]) if len(arguments) == 4 else PATIENCE)
    if len(arguments) > 1 and arguments[0] == "resolve":
        return resolve(arguments[1:])
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
