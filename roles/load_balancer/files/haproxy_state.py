# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Start HAProxy when its servers' names are known, carry what it knows about them over a reload, and make sure that
the reload took place.

Run it as /usr/bin/python3 -I haproxy_state.py ...:
save SOCKET FILE               before the reload: the servers' state into FILE, the process in charge into FILE.pid
confirm SOCKET FILE [SECONDS]  after it: wait until another process is in charge; exit 1 with the reason if none is
resolve NAME...                before the start: wait until all names have an address; exit 1 if some never get one

Standard library only: it runs as part of `systemctl reload haproxy`, when nothing else may be at hand.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from pathlib import Path

# A new process first looks up the servers' names, and a name server may be slow.
PATIENCE = 30


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


def save(path: str, state: Path) -> int:
    try:
        replace(state, ask(path, "show servers state"))
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
    if len(arguments) == 3 and arguments[0] == "save":
        return save(arguments[1], Path(arguments[2]))
    if len(arguments) in (3, 4) and arguments[0] == "confirm":
        return confirm(arguments[1], Path(arguments[2]), int(arguments[3]) if len(arguments) == 4 else PATIENCE)
    if len(arguments) > 1 and arguments[0] == "resolve":
        return resolve(arguments[1:])
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
